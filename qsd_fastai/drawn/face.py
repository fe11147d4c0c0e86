"One face, modelled from a few solids that turn together, features painted on them, hair over them, a light on it all"
import math

import numpy as np

from .face_traits import FaceTraits
from .face_view import FaceView
from .solids import Pose, Surface, soft_max

__all__ = ['draw_face']

_ALL = slice(None), slice(None)
_LONG = ('long', 'parted long', 'fringe long')


def _step(v): # 0 below 0, 1 above 1, smooth between
    v = np.clip(v, 0, 1)
    return v*v*(3 - 2*v)


def _plane(colour): return np.asarray(colour, np.float32)[:, None, None]


class _Face:
    def __init__(self, traits, view, size, grain):
        self.t,self.v,self.size,self.grain = traits,view,size,grain
        least = min(size)
        middle = size[1]*(.5 + view.shift[0]), size[0]*.5 + least*(.075 + view.shift[1])
        self.pose = Pose(size, .33*least*view.zoom, middle, view.yaw, view.pitch, view.roll)
        self.u,self.tone = self.pose.unit, _plane(view.tone)
        self.skin,self.hair = (np.array(c, np.float32)/255 for c in (traits.skin, traits.hair))

    def edge(self, d): return np.clip(d*self.u + .5, 0, 1)

    def paint(self, where, mask, colour):
        "Colour on the skin"
        part = self.albedo[(slice(None), *where)]
        part += mask*(_plane(colour) - part)

    def shadow(self, where, mask):
        "Darker skin, whatever is on it"
        part = self.albedo[(slice(None), *where)]
        part *= 1 - mask

    def over(self, where, mask, colour):
        "Colour over the picture"
        part = self.out[(slice(None), *where)]
        part += mask*(colour - part)

    def head(self):
        t,s = self.t, Surface(self.pose)
        w,n = t.width,t.length
        s.add((0, -.3, -.2), (w, 1.02, 1.12))
        s.add((0, .3, 0), (.94*w, 1.02*n, .9), .2)
        s.add((0, .74*n, .14), (t.jaw*w, .6*n, .66), .25)
        s.add((0, 1.17*n, .5), (t.chin, .25, .29), .3)
        for side in (-1, 1): s.add((side*.42*w, .4, .36), (.34*w, .34, .4 + .09*t.cheek), .3)
        self.sockets(s)
        tip,out = t.nose_length,t.nose_out
        s.add((0, .5*tip, .84 + .25*out), (1.25*t.nose_bridge, .6*tip, .1 + .26*out), .14)
        s.add((0, tip - .04, .82 + .3*out), (.55*t.nose_width, .13, .16 + .4*out), .1)
        for side in (-1, 1): s.add((side*.62*t.nose_width, tip + .01, .84), (.42*t.nose_width, .095, .13 + .2*out), .05)
        s.add((0, tip + t.mouth_height, .74), (t.mouth_width*.95, .2, .25), .12)
        for side in (-1, 1): s.add((side*1.0*w, .16, -.12), (.1*t.ears, .27*t.ears, .17*t.ears), .03)
        return s

    def sockets(self, s):
        "Eyes lie back under the brows: what the solids cannot do is pressed in"
        for side in (-1, 1):
            where = self.pose.near(side*self.t.eye_gap, -.03, .85, .34)
            x,y,_ = self.pose.head_coordinates(s.depth[where], where)
            x,y = (x - side*self.t.eye_gap)*(1/.3), (y + .03)*(1/.22)
            dent = np.maximum(1 - x*x - y*y, 0)
            s.depth[where] -= .05*dent*dent

    def features(self):
        t = self.t
        self.X,self.Y,self.Z = self.pose.head_coordinates(self.surface.depth)
        self.albedo = _plane(self.skin)*(1 + .05*(self.grain - .5))
        red = self.skin*np.array((1.04, .78, .76), np.float32)
        for x,y,r in ((-.52, .42, .5), (.52, .42, .5), (0, t.nose_length - .03, .2)):
            self.blush(x, y, r, red, .15 + .5*t.ruddy)
        self.beard()
        if t.freckles:
            spots = np.random.default_rng(t.freckles)
            for x,y,r in zip(spots.normal(0, .4, 28), spots.normal(.35, .13, 28), spots.uniform(.012, .024, 28)):
                self.dot(float(x), float(y), float(r), self.skin*.66, .75)
        for side in (-1, 1): self.eye(side)
        for side in (-1, 1): self.brow(side)
        for side in (-1, 1): self.dot(side*.5*t.nose_width, t.nose_length + .06, .045, self.skin*.3, .8)
        self.mouth()
        for x,y,r in t.marks: self.dot(x, y, r, self.skin*.35, .9)

    def window(self, x, y, reach):
        z = math.sqrt(max(.04, .86 - .75*x*x - .3*max(0, y - .5)**2))
        where = self.pose.near(x, y, z, reach)
        return where, self.X[where], self.Y[where], self.Z[where] > -.1

    def blush(self, x, y, r, colour, strength):
        where,X,Y,front = self.window(x, y, r)
        d = np.maximum(1 - ((X - x)**2 + (Y - y)**2)*(1/(r*r)), 0)
        self.paint(where, strength*d*d*front, colour)

    def dot(self, x, y, r, colour, strength):
        where,X,Y,front = self.window(x, y, r + .06)
        self.paint(where, strength*self.edge(r - np.sqrt((X - x)**2 + (Y - y)**2))*front, colour)

    def eye(self, side):
        t,v = self.t,self.v
        where,X,Y,front = self.window(side*t.eye_gap, 0, .34)
        x = (X - side*t.eye_gap)*side
        y = Y + (t.eye_tilt/t.eye_width)*x
        wide,opened = t.eye_width, t.eye_open*v.lids
        dark = self.skin*.45
        bow = 1 - (x/wide)**2
        top = -1.1*opened*bow
        low = (.5*t.eye_open + .15*opened)*bow*min(1, .35 + v.lids)*(1 - .25*max(0, v.smile))
        self.shadow(where, .13*_step(1.25 - (x/.3)**2 - (Y/.2)**2)*front)
        inside = self.edge(np.minimum(y - top, low - y))*(bow > 0)*front
        self.paint(where, inside, (.93, .92, .9))
        ix,iy = x - side*v.gaze[0], y + .015 - v.gaze[1]
        r,iris = np.sqrt(ix*ix + iy*iy), np.array(t.iris, np.float32)/255
        self.paint(where, inside*self.edge(.095 - r), iris*.55)
        self.paint(where, inside*self.edge(.075 - r), iris*1.15)
        self.paint(where, inside*self.edge(.038 - r), (.03, .03, .03))
        gx,gy = ix - .03*self.v.light[0]*side, iy + .032
        self.paint(where, inside*self.edge(.02 - np.sqrt(gx*gx + gy*gy)), (1, 1, 1))
        self.paint(where, .4*inside*_step((top + .05 - y)*20), dark)
        lash = .021 - np.abs(y - top - .005)
        self.paint(where, .92*self.edge(lash)*(np.abs(x + .01) < wide*1.04)*front, (.1, .07, .06))
        self.paint(where, .3*self.edge(.008 - np.abs(y - low))*(bow > 0)*front, dark)
        self.paint(where, .45*self.edge(.009 - np.abs(y - top + .055))*(bow > .1)*front, dark)

    def brow(self, side):
        t,v = self.t,self.v
        where,X,Y,front = self.window(side*t.eye_gap, -t.brow_height, .36)
        x = ((X - side*t.eye_gap)*side - .01)/.27
        middle = -t.brow_height - .06*v.brows - t.brow_arch*(1 - x*x) - t.brow_tilt*x + .02*min(0, v.brows)*x
        half = .5*t.brow_thick*(1.15 - .35*np.maximum(x, 0) - .15*x*x)
        d = np.minimum(half - np.abs(Y - middle), (1 - np.abs(x))*.27)
        colour = self.hair*.62 if t.style != 'bald' else self.hair*.55
        self.paint(where, np.clip(d*self.u*.8 + .5, 0, 1)*(.72 + .28*self.grain[where])*front, colour)

    def mouth(self):
        t,v = self.t,self.v
        my = t.nose_length + t.mouth_height
        wide = t.mouth_width*(1 + .16*v.smile - .12*v.gape)
        where,x,Y,front = self.window(0, my + .05, .62)
        q = (x/wide)**2
        bow,gape = np.maximum(1 - q, 0), .16*v.gape
        y = Y - my + .1*v.smile*np.minimum(q, 1.3) - .02*bow
        red = np.array((.72, .32, .34), np.float32)*(.35 + .65*self.skin.max())
        lips = self.skin + (.25 + .6*t.lip_red)*(red - self.skin)
        notch = np.maximum(1 - (x/(.3*wide))**2, 0)
        upper = -gape*.5*bow - t.lip_upper*np.sqrt(bow)*(1 - .35*notch)
        lower = gape*bow + t.lip_lower*bow
        self.shadow(where, .1*_step(1 - np.abs(y - lower - .07)*14)*(1 - np.minimum(q*2, 1))*front)
        if v.smile > .15:
            for side in (-1, 1):
                a = side*x - wide*.98 - .06 - .3*(Y - my)
                fold = _step(1 - np.abs(a)*16)*_step((.22 - np.abs(Y - my + .14))*9)
                self.shadow(where, .17*min(1, v.smile)*fold*front)
        whole = self.edge(np.minimum(y - upper, lower - y))*(q < 1.02)*front
        self.paint(where, whole, lips)
        self.paint(where, whole*.35*_step((-gape*.5*bow - y)*25 + .5), lips*.7)
        hole_top,hole_low = -gape*.5*bow, gape*bow
        hole = self.edge(np.minimum(y - hole_top, hole_low - y) + .004)*(q < .97)*front
        if v.gape > .12:
            self.paint(where, hole, (.22, .07, .07))
            self.paint(where, hole*self.edge(hole_top + .055 + .2*gape - y)*(q < .75), (.93, .91, .86))
        else:
            dark = self.skin*np.array((.42, .3, .3), np.float32)
            self.paint(where, .75*self.edge(.013 - np.abs(y))*(q < 1.08)*front, dark)

    def beard(self):
        t,X,Y = self.t,self.X,self.Y
        if t.beard == 'none': return
        nose,my = t.nose_length, t.nose_length + t.mouth_height
        q = np.minimum((X/(.86*t.width))**2, 1)
        lip = np.minimum(Y - nose - .1 - .1*(X/t.mouth_width)**2, my + .05 + .25*(X/t.mouth_width)**2 - Y)
        lip = np.minimum(lip, t.mouth_width*1.12 - np.abs(X))
        below = .5 - np.sqrt((X/.9)**2*1.9 + ((Y - 1.22*t.length)/.92)**2*1.4)
        cheeks = np.minimum(Y - (nose + .12) + nose*q*q, self.Z + .05)
        d = {'full': cheeks, 'stubble': cheeks, 'moustache': lip, 'goatee': np.maximum(lip, below)}[t.beard]
        soft = 9 if t.beard in ('full', 'stubble') else .6*self.u
        mask = np.clip(d*soft + .3 + .5*(self.grain - .5), 0, 1)*(self.Z > -.1)
        self.paint(_ALL, mask*(.34 if t.beard == 'stubble' else .88), self.hair*.75)

    def hairline(self, X, Y, Z):
        "How far below the hairline a point of the scalp is, negative under hair"
        style,f,ax = self.t.style, -self.t.forehead, np.abs(X)
        def ramp(v): return np.clip(v, 0, 1)
        if style in ('fringe', 'fringe long'): line = f*.45 - .12 + .06*ax + .05*self.strands(X*9)
        elif style == 'parted': line = f + .42*ramp((X + .4)*.9) - .25*ramp(-(X + .4)*2) + .03*self.strands(X*7)
        elif style == 'parted long': line = f + .55*ramp((X + .35)*.9) + .6*ramp(-(X + .35)*1.2)
        elif style == 'long': line = f - .1 + .95*ax*np.minimum(ax + .2, 1)
        elif style == 'receding': line = f - .22 - .4*ramp(1 - np.abs(ax - .5)*3.2)
        else: line = f + .1*ax*ax + (.05*self.strands(X*6) if style == 'curly' else 0)
        burn = .75 if style in _LONG else .3 if style == 'curly' else .12
        line = line + (burn - line)*_step((.66 - Z)*3) + .6*_step((-.15 - Z)*4)
        return Y - line

    def strands(self, v):
        "Smooth noise along one axis, the same for every picture of an identity"
        k = np.floor(v)
        part,i = v - k, k.astype(np.int32)
        a,b = (((j*7919 + 1301*self.t.skin[0]) % 101).astype(np.float32)*(1/50.) - 1 for j in (i, i + 1))
        return a + (b - a)*part*part*(3 - 2*part)

    def hair_colour(self, s, X, Y, Z):
        shade,shine = s.lit(self.v.light, self.v.ambient, .16)
        across = X*13 + Z*5 if self.t.style in _LONG else X*13 + Z*5 + Y*3
        shade *= .9 + .13*self.strands(across) + .13*(self.grain - .5)
        return (_plane(self.hair)*shade + shine)*self.tone

    def hair_over(self):
        t,v = self.t,self.t.volume
        if t.style == 'bald': return
        v = .02 if t.style in ('buzz', 'receding') else v + .14 if t.style == 'curly' else v
        s = Surface(self.pose).add((0, -.32 - .4*v, -.2 - .5*v), (t.width + .4*v, 1.02 + .8*v, 1.13 + .55*v))
        X,Y,Z = self.pose.head_coordinates(s.depth)
        rough = (.11 if t.style == 'curly' else .03)*(self.grain - .5)
        mask = np.clip(-(self.hairline(X, Y, Z) + rough)*self.u*.6 + .5, 0, 1)*self.edge(s.inside + rough*.5)
        if t.style == 'buzz': mask *= .72
        if t.style in _LONG:
            locks = Surface(self.pose)
            for side in (-1, 1): locks.add((side*t.width, .62, -.08), (.15 + .5*v, 1.35, .36))
            mask = np.maximum(mask, locks.cover()*_step((self.pose.y + .9)*2))
            s.depth = soft_max(s.depth, locks.depth, .12)
            X,Y,Z = self.pose.head_coordinates(s.depth)
        self.over(_ALL, mask*(s.depth > self.surface.depth), self.hair_colour(s, X, Y, Z))

    def behind(self):
        "Hair behind the neck, the neck, the clothes"
        t,p = self.t,self.pose
        if t.style in _LONG:
            s = Surface(p).add((0, .45, -.35), (1.08*t.width + t.volume, 1.75, .7))
            X,Y,Z = p.head_coordinates(s.depth)
            self.over(_ALL, s.cover(), .7*self.hair_colour(s, X, Y, Z))
        nx,ny,_ = p.project(0, 1., -.25)
        x = (p.x - nx)/(.56*t.width)
        # the neck is a column, in the shadow of the chin
        light,ambient = self.v.light,self.v.ambient
        facing = x*light[0] + np.sqrt(np.maximum(1 - x*x, 0))*light[2]
        shade = ambient + (1 - ambient)*np.maximum(facing, 0)
        dark = .55 + .35*_step((p.y - ny - .35)*1.5)
        mask = self.edge((1 - np.abs(x))*.56)*(p.y > ny)
        self.over(_ALL, mask, _plane(self.skin)*(shade*dark)*self.tone)
        top = ny + .72
        x = p.x - nx
        coat = p.y - top + .12 - .26*np.clip(np.abs(x) - .5, 0, .5) - np.maximum(.25 - x*x, 0)
        cloth = _plane(self.v.cloth)*self.tone
        self.over(_ALL, self.edge(coat), cloth*(.75 + .25*light[0]*np.clip(x, -1, 1)))

    def glasses(self):
        t = self.t
        if t.glasses == 'none' or not self.v.glasses: return
        where = self.pose.near(0, .05, 1.02, 1.05)
        X,Y = self.pose.on_plane(1.02, where)
        x,y = np.abs(X) - t.eye_gap - .01, Y - .04
        if t.glasses == 'round': d = np.sqrt(x*x + y*y) - .29
        else:
            a,b = np.abs(x) - .2, np.abs(y) - .13
            d = np.sqrt(np.maximum(a, 0)**2 + np.maximum(b, 0)**2) + np.minimum(np.maximum(a, b), 0) - .1
        thick = .022 if t.frame[0] > 100 else .032
        frame = self.edge(thick - np.abs(d))
        gap = t.eye_gap - .3
        bridge = self.edge(thick - np.abs(y + .05 + .06*(1 - (X/(gap + .08))**2)))*(np.abs(X) < gap + .03)
        ear,head = self.Z[where], self.edge(self.surface.inside[where])
        arms = self.edge(.026 - np.abs(self.Y[where] + .06))*(ear < .62)*(ear > -.05)*(np.abs(self.X[where]) > .7)*head
        colour = _plane(t.frame)/255*self.tone*(.6 + .4*self.v.ambient)
        lens = self.edge(-d)
        self.over(where, lens*.1, _plane((.85, .9, .95)))
        glint = _step(1 - np.abs(x + y*.8 + .3*self.v.light[0])*7)*lens
        self.over(where, glint*.18*max(0., self.v.light[2]), _plane((1, 1, 1)))
        self.over(where, np.maximum(np.maximum(frame, bridge), arms), colour)

    def draw(self, background):
        self.out = background
        self.behind()
        self.surface = s = self.head()
        self.features()
        shade,shine = s.lit(self.v.light, self.v.ambient, .12)
        colour = (self.albedo*shade + shine)*self.tone
        self.over(_ALL, s.cover(), colour)
        self.hair_over()
        self.glasses()
        return self.out


def draw_face(
    traits:FaceTraits,     # Who
    view:FaceView,         # How it is seen
    size:tuple[int, int],  # `(height, width)`, pixels
    background:np.ndarray, # `(3, height, width)`, float32, 0 to 1; drawn over
    grain:np.ndarray,      # `(height, width)`, float32, 0 to 1: the roughness of skin and hair
)->np.ndarray: # The background with the face on it
    "Draw one face as an aligned crop of it"
    return _Face(traits, view, size, grain).draw(background)
