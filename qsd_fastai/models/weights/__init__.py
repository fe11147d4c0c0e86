"""Weights that people already have

read         `load_reference`, with a report on every key
people       Names of AGW, QSD, FastReID, Torchreid
faces        Names of arcface_torch, AdaFace, MagFace, MobileFaceNet, and their colour order
safe_pickle  Files of torch without running their code
"""
