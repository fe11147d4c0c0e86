"""What turns a picture into maps

by_name        `make_body`: one of our own, or a timm model
given          A body that is no name: a function, or layers one after the other
timm           timm models, their weights and last stride
agw            ResNet with non-local blocks
osnet          OSNet of Torchreid
solider        Swin of SOLIDER
clip           Image towers of CLIP-ReID
staged         What our bodies share that end in an embedding of their own
face           What bodies for faces share
iresnet        iResNet of arcface_torch, IR of AdaFace
mobilefacenet  MobileFaceNet
"""
