"""The pictures people look at: each a function of plain data that returns a matplotlib figure, and ends in `_figure`

curves    ROC, DET, CMC, error against rejection, gains of arms
gains     Where a method helped: gain of each query, pictures that gained and lost most
history   How a training went, epoch by epoch
maps      Embeddings laid out by quality, energy of levels
pictures  Sheets, ranked lists, the hardest queries and pairs
quality   Histogram, agreement, figures by quality
style     One palette and one frame
"""
