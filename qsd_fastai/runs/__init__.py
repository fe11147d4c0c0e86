"""What a run leaves behind

curves        CMC, ROC, DET, error against rejection: as figures, frames and charts, of several models in one
folder        Its folder, never written over; `--resume`
history       Its numbers as they were logged
keys          What every key of its W&B run is
lock          One process at a time in a folder
made          What it was made of and with: the content of its table, versions
no_run        What stands in for its W&B run where there is none
offline       W&B runs that were kept offline, read back
tables        Its table of results, read back
wandb_run     Its W&B run, from start to end
wandb_tables  Figures, the hardest queries and pairs, as W&B shows them
"""
