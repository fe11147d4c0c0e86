"""Weights that people already have

read         `load_reference`, the one door, with a report on every key
peel         What trainers wrap around weights
project      The record that each project fills
people       Records of AGW, QSD, BoT, FastReID, Torchreid, plain bodies
faces        Records of arcface_torch, AdaFace, TFace, MagFace, MobileFaceNet, InsightFace_Pytorch
colours      RGB or BGR, and what says so
safe_pickle  Files of torch without running their code
"""
