"""The pictures people look at: each a function of plain data that returns a matplotlib figure, and ends in `_figure`

curves    ROC, DET, CMC, error against rejection, gains of arms
pictures  Sheets, ranked lists, the hardest queries and pairs
quality   Histogram, agreement, figures by quality
style     One palette and one frame
"""
