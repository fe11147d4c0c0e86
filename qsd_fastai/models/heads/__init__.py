"""What turns an embedding into logits of identities, in training only

linear           `LinearHead`, the classifier of Re-ID
margins          `ArcFace`, `CosFace`, `AdaFace`, `MagFace`, `CurricularFace`, `SubCenterArcFace`
partial_fc       A sample of very many identities a step, spread over processes
sharded_softmax  Cross entropy over classes of all processes
"""
