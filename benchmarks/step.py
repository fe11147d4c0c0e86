"""What a training step costs: as published, without QSD, and with QSD in every form, plain and fast.

    python benchmarks/step.py [--arch agw_resnet50] [--n 64] [--rounds 5] [--forms published,none,batch] [--out DIR]

The published step is written here in plain PyTorch: two passes in float32, one of the pictures and one of partners,
pairs picked by boolean masks, Adam with a group a tensor, the loss read after each step. All others go through a fastai
`Learner`. The same network, losses and pictures, which lie on the device; medians of interleaved rounds. `fast` is
channels last, bfloat16 (on a GPU) and `fused_adam`; `compiled` is `torch.compile` on top of it. Ratios first: they are
what counts. *Of the limit* is the share of a step that its arithmetic or its memory traffic takes at least, whichever
is more, at the pace that this device multiplies and copies at: what the form asks for is counted, each operation alone,
so that compilers may fuse their way above 1. Memory is on a GPU what tensors take beside weights and optimizer, on a
CPU the peak of a process of its own beside what it had when Python and its libraries were there.
"""
import time
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastcore.script import call_parse
from tuning.bounds import least_seconds, pace_of, work_of
from tuning.measured import Measured
from tuning.peaks import own_peak, peaks_alone

from qsd_fastai.callbacks.centers import CenterUpdate
from qsd_fastai.callbacks.running_loss import KeptLosses
from qsd_fastai.choices import one_of
from qsd_fastai.commands import in_one_line
from qsd_fastai.compiled import to_compiled
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.losses import CenterLoss, IdentityLoss, RecognitionLoss, WeightedRegularizedTriplet
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.optimizers import fused_adam
from qsd_fastai.runs.made import peak_memory

N_BATCHES = 2


class Batches(list):
    "What QSD asks of a loader"
    by_identity,n_imgs,copies = True,4,False


def batches(n, n_ids, size, device, partners):
    "Pictures of `n` // 4 people, four of each; with partners, one of the same person for each"
    ids,rng = torch.arange(n//4).repeat_interleave(4) % n_ids,torch.Generator().manual_seed(0)
    def batch():
        k = 2*n if partners else n
        x,quality = torch.randn(k, 3, *size, generator=rng),100*torch.rand(k, generator=rng)
        return tuple(o.to(device) for o in (x, ids.repeat(k//n), quality))
    return [batch() for _ in range(N_BATCHES)]


def published_qsd(first, second, q1, q2, weights=(1., 1., 1., 1., .1), tau=.3):
    "QSD between two lists of levels, as published: what is kept is cut out by masks, level by level"
    gap = (q1 - q2).abs()
    mean = gap.mean()
    keep = (gap >= tau*mean) & (gap <= 100 - tau*(100 - mean))
    ahead,behind = keep & (q1 > q2),keep & (q1 < q2)
    total = 0.
    for a,b,w in zip(first, second, weights):
        teacher,student = torch.cat([a[ahead], b[behind]]).clone().detach(),torch.cat([b[ahead], a[behind]])
        if a.dim() == 2: term = (1 - F.cosine_similarity(teacher, student, eps=1e-6)).mean()
        else:
            t,s = teacher.pow(2).mean(1),student.pow(2).mean(1)
            term = 2/(s.max() - s.min())*F.mse_loss(s, t)
        total = total + w*term
    return total


class Published:
    "The published step; without partners, the same without QSD"
    def __init__(self, arch, n, size, device, partners=True):
        torch.manual_seed(0)
        self.model = Recognizer(arch, n//4, pretrained=False).to(device).train()
        self.losses = IdentityLoss(),WeightedRegularizedTriplet(form='reference')
        self.centers = CenterLoss(n//4, self.model.embed_dim, start='random').to(device).train()
        groups = [{'params': [p], 'lr': 1e-5, 'weight_decay': 5e-4} for p in self.model.parameters() if p.requires_grad]
        self.opts = torch.optim.Adam(groups),torch.optim.SGD(self.centers.parameters(), lr=.5)
        self.batches,self.partners = batches(n, n//4, size, device, partners),partners

    def step(self, x, ids, quality):
        for opt in self.opts: opt.zero_grad()
        n = len(x)//2 if self.partners else len(x)
        out = self.model(x[:n])
        identity,triplet = self.losses
        loss = identity(out.logits, ids[:n]) + triplet(out.pooled, ids[:n]) + 5e-4*self.centers(out.pooled, ids[:n])
        if self.partners:
            other = self.model(x[n:])
            loss = loss + published_qsd(*([*o.levels, o.emb, o.logits] for o in (out, other)), quality[:n], quality[n:])
        loss.backward()
        for p in self.centers.parameters(): p.grad.mul_(1/5e-4)
        for opt in self.opts: opt.step()
        return loss.item()

    def run(self, n):
        for k in range(n): self.step(*self.batches[k % N_BATCHES])


class Ours:
    "A step of a `Learner`"
    def __init__(self, arch, n, size, device, pairs=None, forward=None, fast=False, compiled=False, **kwargs):
        torch.manual_seed(0)
        partners = pairs == 'partner'
        model = Recognizer(arch, n//4, pretrained=False).to(device)
        data = batches(n, n//4, size, device, partners)
        dls = DataLoaders(Batches(data), [])
        dls.n_inp = 1
        center = CenterLoss(n//4, model.embed_dim, start='random')
        loss = RecognitionLoss(triplet=WeightedRegularizedTriplet(), center=center)
        method = [QualityDistillation(preset='published', pairs=pairs, forward=forward)] if pairs else []
        self.learn = Learner(dls, model, loss_func=loss.to(device), wd_bn_bias=True,
                             cbs=[KeptLosses(), CenterUpdate(), *method],
                             opt_func=partial(fused_adam if fast else Adam, decouple_wd=False))
        self.learn.remove_cb(ProgressCallback)
        if fast:
            model.to(memory_format=torch.channels_last)
            if device == 'cuda': self.learn.to_bf16()
        if compiled: to_compiled(self.learn, **kwargs)
        self.batches = data

    def run(self, n):
        self.learn.dls.train = Batches(self.batches[k % N_BATCHES] for k in range(n))
        with self.learn.no_logging(): self.learn.fit(1, 1e-5, wd=5e-4)


FORMS = {
    'published': Published, 'published, without QSD': partial(Published, partners=False),
    'none': Ours, 'batch': partial(Ours, pairs='batch'), 'partner': partial(Ours, pairs='partner', forward='separate'),
    'joint': partial(Ours, pairs='partner', forward='joint'),
    'none, fast': partial(Ours, fast=True), 'batch, fast': partial(Ours, pairs='batch', fast=True),
    'joint, fast': partial(Ours, pairs='partner', forward='joint', fast=True),
    'none, compiled': partial(Ours, fast=True, compiled=True),
    'batch, compiled': partial(Ours, pairs='batch', fast=True, compiled=True),
    'batch, graphs': partial(Ours, pairs='batch', fast=True, compiled=True, mode='reduce-overhead'),
    'joint, compiled': partial(Ours, pairs='partner', forward='joint', fast=True, compiled=True),
}


def timed(form, n, device):
    "Seconds a step of `n`; on a GPU the memory in MiB that it takes beside weights and optimizer, else None"
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    start = time.perf_counter()
    form.run(n)
    if device == 'cuda': torch.cuda.synchronize()
    took = (time.perf_counter() - start)/n
    return took, (torch.cuda.max_memory_allocated() - held)/2**20 if device == 'cuda' else None


def counted(form, n):
    "A step's operations; on a GPU kernels, waits for the device and copies from it, by PyTorch's profiler"
    if not torch.cuda.is_available(): return {'operations': work_of(lambda: form.run(1))['operations']}
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as found: form.run(n)
    calls = {o.key: o.count for o in found.key_averages()}
    return {'kernels': sum(v for k,v in calls.items() if 'LaunchKernel' in k)/n,
            'waits': sum(v for k,v in calls.items() if k in ('cudaStreamSynchronize', 'cudaDeviceSynchronize'))/n,
            'copies to the host': sum(v for k,v in calls.items() if 'DtoH' in k)/n}


@call_parse
@in_one_line
def main(
    arch:str='agw_resnet50',  # A body
    height:int=256,           # Of the pictures, pixels
    width:int=128,            # Of the pictures, pixels
    n:int=64,                 # Pictures a step, four of each person; partners come to them
    steps:int=10,             # A round
    rounds:int=5,             # Of which medians are taken
    forms:str='',             # Which of `FORMS`, with commas between and none within; compiled ones only on a GPU
    profile:bool=False,       # Count operations too; on a GPU kernels and waits
    out:str='',               # Folder for step.json and step.md
    memory:str='',            # Print the peak memory of a process with this form alone, MiB beside libraries
):
    "A row a form: steps against the published one, milliseconds, pictures a second that are anchors, memory"
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    titles = {k.replace(', ', ' '): k for k in FORMS}
    if memory:
        libraries = own_peak()
        FORMS[titles[one_of('memory', memory, *titles)]](arch, n, (height, width), device).run(2)
        return print(own_peak() - libraries)
    made,lost = {},{}
    usual = [k for k,v in titles.items() if device == 'cuda' or not v.endswith(('compiled', 'graphs'))]
    for key in forms.split(',') if forms else usual:
        title = titles[one_of('forms', key, *titles)]
        try:
            made[title] = FORMS[title](arch, n, (height, width), device)
            timed(made[title], max(2, steps//3), device) # Warms up
        except Exception as e: # what one form cannot do on this machine is a row of the table
            made.pop(title, None)
            lost[title] = f'{type(e).__name__}: {e}'.splitlines()[0][:300]
            print(f'{title}: {lost[title]}', flush=True)
    found = {title: [] for title in made}
    for k in range(rounds):
        for title,form in made.items():
            found[title].append(timed(form, steps, device))
            print(f'round {k + 1}, {title}: {1000*found[title][-1][0]:.1f} ms a step', flush=True)
    if device == 'cpu':
        keys = [key for key,title in titles.items() if title in made]
        alone = peaks_alone(__file__, {'arch': arch, 'height': height, 'width': width, 'n': n}, keys)
        peak = {titles[key]: mib for key,mib in alone.items()}
    pace = {o: pace_of(device, o) for o in ({torch.float32, torch.bfloat16} if device == 'cuda' else {torch.float32})}
    table = Measured('step', arch=arch, size=f'{height}x{width}', n=n, steps=steps, rounds=rounds,
                     **{f'{k} a second ({str(o).removeprefix("torch.")})': round(v)
                        for o,of in pace.items() for k,v in of.items()}, **peak_memory(device))
    first = next(iter(found))
    for title,times in found.items():
        took,mib = median(t for t,_ in times),times[-1][1] if device == 'cuda' else peak[title]
        mib_of_first = found[first][-1][1] if device == 'cuda' else peak[first]
        table.add(title, **{'against': median(t for t,_ in found[first])/took, 'memory against': mib/mib_of_first})
        if 'compiled' not in title and 'graphs' not in title:
            work = work_of(lambda form=made[title]: form.run(1))
            own = pace[torch.bfloat16 if device == 'cuda' and 'fast' in title else torch.float32]
            least = least_seconds(work, own)
            table.add(title, **{'of the limit': least/took, 'GFLOP': work['GFLOP'], 'GB': work['GB']})
        table.add(title, **{'ms': 1000*took, 'anchors a second': n/took, 'MiB': mib})
        if profile: table.add(title, **counted(made[title], 4 if device == 'cuda' else 1))
    for title,why in lost.items(): table.add(title, error=why)
    table.show(out)
