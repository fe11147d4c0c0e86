"""What turns an embedding into logits of identities, in training only

by_name          `make_head`: any of these by its name
linear           `LinearHead`, the classifier of Re-ID
cosine           `MarginHead`, cosines to a direction for each identity
margins          `ArcFace`, `CosFace`, `AdaFace`, `MagFace`, `CurricularFace`, `SubCenterArcFace`
partial_fc       A sample of very many identities a step, spread over processes
sharded_softmax  Cross entropy over classes of all processes
"""
