"SOLIDER's Swin: windows padded before they are shifted, and maps weighted by how much of a person's meaning is wanted"
import torch
import torch.nn.functional as F
from torch import nn

from ..preprocess import Preprocess, face_stats
from .staged import StagedBody, named_body

__all__ = ['SoliderSwin', 'solider_swin_base', 'solider_swin_small', 'solider_swin_tiny']

WINDOW = 7


class WindowAttention(nn.Module):
    "Attention within windows of 7x7 places, moved by three in every second block (Liu et al., ICCV 2021)"
    def __init__(self, nf, heads, shift):
        super().__init__()
        self.heads,self.shift,n = heads, shift, 2*WINDOW - 1
        self.qkv,self.proj = nn.Linear(nf, 3*nf), nn.Linear(nf, nf)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(n*n, heads), std=.02))
        row,column = torch.arange(WINDOW**2)//WINDOW, torch.arange(WINDOW**2) % WINDOW
        place = (row[:, None] - row + WINDOW - 1)*n + column[:, None] - column + WINDOW - 1
        self.register_buffer('place', place, persistent=False)

    def _mask(self, h, w, device):
        "Places that the shift made neighbours do not see each other: `(windows, 1, 49, 49)`"
        def part(n):
            i = torch.arange(n, device=device)
            return (i >= n - WINDOW).long() + (i >= n - self.shift)

        parts = _windows((3*part(h)[:, None] + part(w))[None, :, :, None]).squeeze(-1)
        return -100.*(parts[:, None, :] != parts[:, :, None])[:, None]

    def forward(self, x):
        bs,h,w,nf = x.shape
        x = F.pad(x, (0, 0, 0, -w % WINDOW, 0, -h % WINDOW))
        full = x.shape[1:3]
        if self.shift: x = x.roll((-self.shift, -self.shift), (1, 2))
        qkv = self.qkv(_windows(x)).unflatten(-1, (3, self.heads, -1))
        q,k,v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.place].permute(2, 0, 1)[None]
        if self.shift: bias = (bias + self._mask(*full, x.device)).repeat(bs, 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        y = self.proj(y.transpose(1, 2).flatten(2))
        y = y.unflatten(1, (WINDOW, WINDOW)).unflatten(0, (bs, full[0]//WINDOW, full[1]//WINDOW))
        y = y.transpose(2, 3).reshape(bs, *full, nf)
        if self.shift: y = y.roll((self.shift, self.shift), (1, 2))
        return y[:, :h, :w]


def _windows(x):
    "`(bs, h, w, nf)` to `(bs*windows, 49, nf)`"
    x = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


class Block(nn.Module):
    "Attention and two layers behind it, each a residual of what was normalised first"
    def __init__(self, nf, heads, shift):
        super().__init__()
        self.norm1,self.norm2 = nn.LayerNorm(nf), nn.LayerNorm(nf)
        self.attn = WindowAttention(nf, heads, shift)
        self.mlp = nn.Sequential(nn.Linear(nf, 4*nf), nn.GELU(), nn.Linear(4*nf, nf))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    "Four places become one, and its channels are weighted by meaning"
    def __init__(self, nf):
        super().__init__()
        self.norm,self.reduction = nn.LayerNorm(4*nf), nn.Linear(4*nf, 2*nf, bias=False)
        # drawn once before SOLIDER's pretraining, and never trained
        for name in ('scale', 'shift'):
            self.register_buffer(f'{name}_weight', nn.init.trunc_normal_(torch.empty(2*nf, 2), std=.02))
            self.register_buffer(f'{name}_bias', torch.zeros(2*nf))

    def forward(self, x, semantic):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(3)
        x = self.reduction(self.norm(x))
        weight = x.new_tensor([semantic, 1 - semantic])
        scale,shift = (F.linear(weight, getattr(self, f'{o}_weight'), getattr(self, f'{o}_bias'))
                       for o in ('scale', 'shift'))
        return x*F.softplus(scale) + shift


class SoliderSwin(StagedBody):
    """Swin Transformer as SOLIDER has it (Chen et al., CVPR 2023).

    timm's rolls before it pads, which is another function wherever windows do not fill the maps."""
    own_embedding = False
    embed_layers = ()

    def __init__(self,
        nf:int,              # Channels of the first stage
        depths:tuple,        # Blocks of each of four stages
        heads:tuple,         # Heads of each stage
        semantic:float=None, # How much of a person's meaning, against its looks, 0 to 1; None: .2, as for people
    ):
        super().__init__(8*nf, 8*nf, Preprocess(*face_stats))
        self.semantic = .2 if semantic is None else semantic
        self.asked = set() if semantic is None else {'semantic'}
        self.patch,self.norm0 = nn.Conv2d(3, nf, 4, 4), nn.LayerNorm(nf)
        self.feature_info = []
        for i,(depth, n) in enumerate(zip(depths, heads, strict=True)):
            width = nf*2**i
            if i: self.add_module(f'merge{i}', Merge(width//2))
            blocks = (Block(width, n, WINDOW//2 if j % 2 else 0) for j in range(depth))
            self.add_module(f'stage{i}', nn.Sequential(*blocks))
            self.feature_info.append({'num_chs': width, 'reduction': 4*2**i, 'module': f'stage{i}'})
        self.norm = nn.LayerNorm(8*nf)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=.02)
                if m.bias is not None: nn.init.zeros_(m.bias)

    def stages(self):
        yield self._first, *self.stage0
        for i in range(1, 4): yield self._merge(i), *getattr(self, f'stage{i}')

    def _first(self, x):
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return self.norm0(self.patch(x).permute(0, 2, 3, 1))

    def _merge(self, i): return lambda x: getattr(self, f'merge{i}')(x, self.semantic)

    def forward_intermediates(self,
        x,            # `(bs, 3, height, width)`
        indices=None, # Which of four stages; None: all
    ): # Final maps, list of maps
        "Final maps and those of the stages asked for"
        final,levels = super().forward_intermediates(x, indices)
        return final, [o.permute(0, 3, 1, 2) for o in levels]

    def final(self, x): return self.norm(x).permute(0, 3, 1, 2)
    def embed(self, maps): return maps.mean((2, 3))


solider_swin_tiny = named_body('solider_swin_tiny', "SOLIDER's Swin-T", SoliderSwin, nf=96, depths=(2, 2, 6, 2),
                               heads=(3, 6, 12, 24))
solider_swin_small = named_body('solider_swin_small', "SOLIDER's Swin-S", SoliderSwin, nf=96, depths=(2, 2, 18, 2),
                                heads=(3, 6, 12, 24))
solider_swin_base = named_body('solider_swin_base', "SOLIDER's Swin-B", SoliderSwin, nf=128, depths=(2, 2, 18, 2),
                               heads=(4, 8, 16, 32))
