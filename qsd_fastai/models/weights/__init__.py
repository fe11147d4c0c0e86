"""Weights that people already have

read            `load_reference`, the one door, with a report on every key
peel            What trainers wrap around weights
project         The record that each project fills
people          Records of AGW, QSD, BoT, FastReID, Torchreid, plain bodies
transformers    Records of TransReID, SOLIDER, CLIP-ReID
faces           Records of arcface_torch, AdaFace, TFace, MagFace, face.evoLVe, CurricularFace
mobilefacenets  Records of foamliu's, InsightFace_Pytorch's, TFace's and arcface_torch's
refused         Networks that are known, and not built
colours         RGB or BGR, and what says so
safe_pickle     Files of torch without running their code
"""
