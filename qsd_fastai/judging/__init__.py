"""Judging a model on a table: one judge for all recipes

models     Any model as a function from a table to embeddings
tables     The tables it is judged on, and the files that come of it
search     Queries against the gallery, re-ranked, by quality, with the worst rejected
pairs      Do two pictures show one person?
templates  Several pictures of one person as one
sets       The sets of pairs that a model for faces is judged on, degraded too
seeds      The mean of curves over several seeds
energy     Where teacher and student are active
judgement  What they all give: figures, protocol, frames, pictures
"""
