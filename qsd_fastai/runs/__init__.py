"""What a run leaves behind

folder        Its folder, never written over; `--resume`
wandb_run     Its W&B run, from start to end
wandb_tables  Figures, the hardest queries and pairs, as W&B shows them
"""
