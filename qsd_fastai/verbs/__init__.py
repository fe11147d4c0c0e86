"""What fastai's verbs say of people

answers         `learn.predict` and `learn.gallery`: who is in a picture
results         Queries with their first answers
interpretation  The hardest queries, for `plot_top_losses`
logged          Rows and no bars where the output is no terminal
refusals        What is added to a learner and is of no use there
"""
