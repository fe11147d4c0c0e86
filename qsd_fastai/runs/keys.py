"Every key of a W&B run: what stands before its slash says what it is, in all recipes"
__all__ = ['AXES', 'PARTS', 'key_of', 'kind_of', 'under']

AXES = 'batch','epoch'          # What curves are drawn over, counted from the first fit of the run
PARTS = {'train': 'number',     # A batch: the loss and its terms
         'lr': 'number',        # A batch: of each parameter group
         'mean': 'number',      # An epoch: terms and the smoothed loss
         'valid': 'number',     # An epoch: metrics
         'cost': 'number',      # An epoch: pictures a second, peak memory, on a GPU that of the run
         'final': 'number',     # Of the model as it came out, in the summary
         'plots': 'picture',
         'charts': 'table',     # Of `wandb.plot`, which W&B draws
         'tables': 'table',
         'histograms': 'histogram'}


def kind_of(
    key:str, # Of a run
)->str:
    "Number, picture, table or histogram. ValueError for a key without a known beginning"
    part = key.split('/')[0]
    if key in AXES: return 'number'
    if part not in PARTS or part == key:
        raise ValueError(f'{key!r} is no key of a run. Begin it with one of {", ".join(o + "/" for o in PARTS)}')
    return PARTS[part]


def key_of(
    name:str, # Of a figure, as tables have it: `mAP worst`
)->str:
    "As a key has it, without blanks and colons: `mAP_worst`"
    return name.replace(':', '').replace(' ', '_')


def under(
    part:str,   # Of `PARTS`
    found:dict, # Name -> what is to be logged
)->dict:
    """The same under their keys. ValueError for an unknown part

    Spelled as `key_of` does. A dot in the name of a picture, chart or table would be a step into it, for W&B."""
    plain = {key_of(k): v for k,v in found.items()}
    if PARTS.get(part) != 'number': plain = {k.replace('.', '_'): v for k,v in plain.items()}
    return {key: o for name,o in plain.items() if kind_of(key := f'{part}/{name}')}
