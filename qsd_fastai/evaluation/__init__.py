"""Judging embeddings: pure functions of arrays, and fastai metrics over them

metrics       `Retrieval`, `Verification`: metrics of a learner; the hardest queries and pairs
store         Embeddings of a validation, kept once for all who judge them
retrieval     Search: CMC, mAP, mINP, by quality
sharded       Search in a gallery that is on several processes
distances     Distances, a block of queries at a time
same_camera   Who matches a query, and what its own camera saw
ranking       Ranks by counting, nearest by selection; compiled
single_shot   CMC with one gallery picture of each identity
open_set      Search where the person may not be there
reranking     k-reciprocal re-ranking, expanded queries
verification  Pairs: accuracy over folds, by quality
scores        Pairs and how alike they are
given         What is given to be judged, checked
roc           ROC, EER, TAR at FAR
templates     Several pictures as one (IJB)
rejection     What rejecting the worst pictures is worth
intervals     95 % intervals of means and shares
maps          Embeddings laid out in two dimensions
comparison    Arms over seeds: means and paired gains
"""
