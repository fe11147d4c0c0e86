"The names that person re-identification projects give their weights, and what keeps their meaning"
from torch import nn

# project -> (a key that tells it, what its names begin with here); the first that fits
SOURCES = {
    'AGW or QSD': ('bottleneck.weight', {
        'base.': 'body.', 'global_pool.': 'pool.', 'bottleneck.': 'neck.', 'classifier.': 'head.'}),
    'FastReID': ('heads.bottleneck.0.weight', {
        'backbone.': 'body.', 'heads.pool_layer.': 'pool.', 'heads.bottleneck.0.': 'neck.',
        'heads.weight': 'head.weight'}),
    'a body with a classifier': ('classifier.weight', {'classifier.': 'head.', '': 'body.'}),
    'a body': ('', {'': 'body.'}),
}

# what a bare body may carry behind its features: classes of ImageNet, not identities
CLASSIFIERS = ('body.fc.', 'body.head.', 'body.classifier.')


def is_ours(
    weights:dict, # A state dict, `module.` taken off
)->bool:
    "Are these of a `Recognizer`?"
    return 'neck.weight' in weights or ('head.weight' in weights and any(k.startswith('body.') for k in weights))


def renamed(
    weights:dict, # A state dict, `module.` taken off
): # `(source, weights)`
    "The project that weights are of, and the same weights under our names"
    if is_ours(weights): return 'qsd_fastai', weights
    source,prefixes = next((name, prefixes) for name,(key, prefixes) in SOURCES.items() if not key or key in weights)
    found = {}
    for k,v in weights.items():
        if k in ('pixel_mean', 'pixel_std'): continue # FastReID's normalisation, not weights
        old = next((p for p in prefixes if k.startswith(p)), None)
        found[k if old is None else prefixes[old] + k[len(old):]] = v
    return source, found


def keep_meaning(
    model,      # A `Recognizer` that got the weights
    source:str, # Of `renamed`
)->list[str]: # What was changed
    "Change what the source does otherwise than our body: a stem without a ReLU, pooling without padding"
    body,notes = model.body, []
    if source == 'AGW or QSD' and getattr(body, 'stem_relu', False):
        if body.stem_relu_asked:
            notes.append('the stem has a ReLU, as asked for, though these weights were trained without')
        else:
            body.set_stem_relu(False)
            notes.append('the ReLU of the stem was taken out: these weights were trained without')
    if source == 'FastReID' and isinstance(getattr(body, 'maxpool', None), nn.MaxPool2d):
        body.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        notes.append("the stem pools without padding, as FastReID's does")
    return notes
