"""Picture to embedding

recognizer   Body, pool, neck, head, and what comes out
levels       Which stages distillation sees, also of a ViT
layers       Pooling, neck, non-local attention
shared_norm  Batch norm over the batches of several processes
switches     What a network does beside its weights, kept in its state dict
preprocess   What pictures a body wants
bodies       timm by name, AGW, iResNet, MobileFaceNet
heads        Linear, margins (ArcFace, AdaFace, ...), Partial FC
weights      Weights of other projects, read safely
"""
