"One walking figure, drawn from a jointed skeleton that is turned, projected, clothed and shaded"
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .person_traits import Traits

__all__ = ['draw_person']

# rims are dark and the core is lit: (part of the radius, brightness), 126 being the colour itself
_ROUND = ((1., 86), (.8, 108), (.58, 126), (.32, 140))
# how far a garment stands off, and its lower levels: (height, half width, half depth)
_LOOSE = {'t-shirt': 1., 'shirt': 1.02, 'jacket': 1.1, 'coat': 1.12, 'hoodie': 1.14}
_HEM = {'t-shirt': ((.5, .1, 1.05),), 'shirt': ((.49, .1, 1.08),), 'jacket': ((.47, .104, 1.15),),
        'hoodie': ((.48, .1, 1.15),), 'coat': ((.44, .118, 1.25), (.33, .128, 1.35))}


class _Canvas:
    "Colours and shading of one figure, drawn apart so that patterns and folds do not fight with the light"
    def __init__(self, size, light):
        self.light,self.colour,self.shading = light, Image.new('RGBA', size), Image.new('L', size, 126)
        self.pen,self.grey = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.shading)

    def fill(self, shape, where, fill):
        "A flat shape; a texture (a picture) as `fill` is cut out by it"
        if isinstance(fill, Image.Image):
            mask = Image.new('L', self.colour.size)
            getattr(ImageDraw.Draw(mask), shape)(where, fill=255)
            self.colour.paste(fill, (0, 0), mask)
        else: getattr(self.pen, shape)(where, fill=(*fill, 255))

    def polygon(self, points, fill, dim=1.):
        "A body between two outlines"
        self.fill('polygon', points, fill)
        cx = sum(p[0] for p in points)/len(points)
        half = max(abs(p[0] - cx) for p in points)
        for k,value in _ROUND:
            shift = cx + self.light*half*(1 - k)*.55
            self.grey.polygon([(shift + (x - cx)*k, y) for x,y in points], fill=int(value*dim))

    def limb(self, joints, radii, fill, dim=1.):
        "A chain of tapered, round-ended segments"
        for k,value in _ROUND:
            shift,grey = self.light*(1 - k)*.5, int(value*dim)
            for (ax, ay),(bx, by),ra,rb in zip(joints, joints[1:], radii, radii[1:]):
                length = math.hypot(bx - ax, by - ay) + 1e-6
                nx,ny = (ay - by)/length*k, (bx - ax)/length*k
                ax,bx = ax + shift*ra, bx + shift*rb
                outline = [(ax + nx*ra, ay + ny*ra), (bx + nx*rb, by + ny*rb),
                           (bx - nx*rb, by - ny*rb), (ax - nx*ra, ay - ny*ra)]
                ends = [(x - r*k, y - r*k, x + r*k, y + r*k) for x,y,r in ((ax, ay, ra), (bx, by, rb))]
                for shape,where in (('polygon', outline), ('ellipse', ends[0]), ('ellipse', ends[1])):
                    getattr(self.grey, shape)(where, fill=grey)
                    if k == 1: self.fill(shape, where, fill)

    def ellipse(self, x, y, rx, ry, fill, dim=1., shaded=True):
        "A ball"
        self.fill('ellipse', (x - rx, y - ry, x + rx, y + ry), fill)
        for k,value in _ROUND if shaded else ():
            cx = x + self.light*rx*(1 - k)*.6
            self.grey.ellipse((cx - rx*k, y - ry*k, cx + rx*k, y + ry*k), fill=int(value*dim))

    def band(self, points, width, fill):
        self.pen.line(points, fill=(*fill, 255), width=max(1, int(width)), joint='curve')

    def crease(self, points, value, width): self.grey.line(points, fill=value, width=int(width), joint='curve')


class _Figure:
    "A person in one pose. Body coordinates: x to the person's left, y up, z ahead, 1 = the height of the body"
    def __init__(self, traits, size, feet, unit, yaw, pitch, phase, rng, light, zoom):
        self.t,self.rng,self.zoom,self.phase,self.wide = traits,rng,zoom,phase,traits.width
        self.u,self.bulk,self.loose = unit*zoom*traits.height, .5 + .5*traits.width, _LOOSE[traits.upper]
        self.c,self.s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        self.sp,self.cp = math.sin(pitch), math.cos(pitch)
        self.lean,self.stride,self.swing = rng.uniform(-.02, .06), rng.uniform(.12, .55), rng.uniform(.1, .6)
        self.front = self.c > .15
        self.canvas = _Canvas((size[1]*zoom, size[0]*zoom), light)
        self.legs = [self.leg_joints(side) for side in (1, -1)]
        self.x0,self.y0 = feet[0]*zoom, feet[1]*zoom
        # the lower foot stands on the ground
        self.ground = min(self.project(p)[1] for leg in self.legs for p in leg[2:]) - .012
        plain = traits.pattern in ('plain', 'print')
        self.upper = traits.upper_colour if plain else self.texture(self.canvas.colour.size, *self.at(0, .74, 0))

    def depth(self, x, z): return z*self.c - x*self.s
    def grow(self, y): return 1 + .35*self.sp*(y - .5)

    def project(self, p):
        x,y,z = p
        return (x*self.c + (z + self.lean*y)*self.s)*self.grow(y), y*self.cp - self.depth(x, z)*self.sp

    def at(self, *p):
        "Where a point of the body is on the canvas"
        x,y = self.project(p)
        return self.x0 + x*self.u, self.y0 - (y - self.ground)*self.u

    def turn(self, side): return self.phase + (0 if side == 1 else math.pi)

    def leg_joints(self, side):
        "Hip, knee, ankle, toe; the knee bends while the leg swings forward"
        a,x = self.stride*math.sin(self.turn(side)), side*.05*self.wide
        b = a - .08 - .9*self.stride*max(0., math.cos(self.turn(side)))
        knee = (x, .5 - .245*math.cos(a), .245*math.sin(a))
        ankle = (x, knee[1] - .225*math.cos(b), knee[2] + .225*math.sin(b))
        return (x, .5, 0.), knee, ankle, (x + side*.012, ankle[1] - .028, ankle[2] + .085)

    def slab(self, *levels):
        "Outline of a body of elliptic sections (y, half width, half depth), from top to bottom"
        left,right = [],[]
        for y,half,deep in levels:
            x,v = self.at(0, y, .004)
            r = math.hypot(half*self.c, deep*self.s)*self.u*self.grow(y)
            left.append((x - r, v))
            right.append((x + r, v))
        return left + right[::-1]

    def texture(self, size, x, y):
        "The cloth of the upper garment over the whole canvas, anchored at the chest"
        t,step = self.t, .05*self.u
        img = Image.new('RGBA', size, (*t.upper_colour, 255))
        pen,x = ImageDraw.Draw(img), x + .03*self.s*self.u
        checks = t.pattern == 'checks'
        if t.pattern == 'horizontal' or checks:
            for k in range(-12, 14): pen.rectangle((0, y + k*step, size[0], y + (k + .45)*step), fill=t.second_colour)
        if t.pattern == 'vertical' or checks:
            colour = tuple((a + b)//2 for a,b in zip(t.upper_colour, t.second_colour)) if checks else t.second_colour
            for k in range(-12, 14): pen.rectangle((x + k*step*.8, 0, x + (k + .4)*step*.8, size[1]), fill=colour)
        if t.pattern == 'two-tone': pen.rectangle((0, y + .1*self.u, *size), fill=t.second_colour)
        return img

    def leg(self, joints):
        t,u,cv,w = self.t,self.u,self.canvas,self.wide
        h,k,a,toe = (self.at(*p) for p in joints)
        heel = self.at(joints[3][0], joints[3][1] + .012, joints[2][2] - .022)
        dim = .82 if self.depth(joints[0][0], 0) < -.02 else 1.
        cv.limb([heel, toe], [.026*u, .02*u], t.shoes, dim)
        if t.lower != 'trousers': cv.limb([h, k, a], [.062*w*u, .038*w*u, .022*u], t.skin, dim)
        else:
            cv.limb([h, k, a], [.062*w*u, .043*w*u, .03*u], t.lower_colour, dim)
            for f in self.rng.uniform(.15, .9, 3):
                fold = [(h[0] + (k[0] - h[0])*f - .03*u, k[1] - f*.1*u), (k[0] + .03*u, k[1] - f*.06*u)]
                cv.crease(fold, 98, self.zoom)
        if t.lower == 'shorts':
            end = tuple(p + .85*(q - p) for p,q in zip(h, k))
            cv.limb([h, end], [.066*w*u, .053*w*u], t.lower_colour, dim)

    def arm(self, side):
        t,u,cv,b = self.t,self.u,self.canvas,self.bulk
        x,dim = side*.108*self.wide, .84 if self.depth(side, 0) < -.3 else 1.
        turn,fold = -self.swing*math.sin(self.turn(side)), self.rng.uniform(.1, .6)
        elbow = (x + side*.02, .785 - .155*math.cos(turn), .155*math.sin(turn))
        hand = (elbow[0] - side*.012, elbow[1] - .14*math.cos(turn + fold), elbow[2] + .14*math.sin(turn + fold))
        sh,el,ha = self.at(x, .785, 0), self.at(*elbow), self.at(*hand)
        cv.ellipse(ha[0], ha[1] + .012*u, .02*u, .027*u, t.skin, dim)
        r = [.036*b*self.loose*u, .031*b*self.loose*u, .024*self.loose*u]
        if t.upper == 't-shirt':
            cv.limb([sh, el, ha], [.03*b*u, .026*b*u, .019*u], t.skin, dim)
            end = tuple(p + .7*(q - p) for p,q in zip(sh, el))
            cv.limb([sh, end], [r[0], r[1]*1.1], self.upper, dim)
        else: cv.limb([sh, el, ha], r, self.upper, dim)
        if t.bag == 'handbag' and side == 1:
            cv.limb([ha, (ha[0], ha[1] + .06*u)], [.008*u, .008*u], t.bag_colour, dim)
            self.box(ha[0], ha[1] + .11*u, (math.hypot(.02*self.c, .07*self.s) + .03)*u, .05*u, dim)

    def box(self, x, y, w, h, dim=1.):
        "A bag with rounded corners"
        e = .3*min(w, h)
        outline = [(x - w + e, y - h), (x + w - e, y - h), (x + w, y - h + e), (x + w, y + h - e),
                   (x + w - e, y + h), (x - w + e, y + h), (x - w, y + h - e), (x - w, y - h + e)]
        self.canvas.polygon(outline, self.t.bag_colour, dim)

    def torso(self):
        t,u,cv,wide = self.t,self.u,self.canvas,self.wide
        w,d = wide*self.loose, .072*(.35 + .65*wide)*self.loose
        if t.lower in ('skirt', 'dress'):
            levels = ((.57, .085, .07), (.48, .105, .09), (.38, .118, .105), (.29, .128, .118))
            skirt = self.slab(*((y, a*wide, b*wide) for y,a,b in levels))
            cv.polygon(skirt, self.upper if t.lower == 'dress' else t.lower_colour)
        else: cv.polygon(self.slab((.58, .085*wide, d), (.5, .1*wide, d), (.455, .098*wide, d*.9)), t.lower_colour)
        shoulders = ((.86, .036, .036), (.845, .055, d*.6), (.828, .095*wide, d*.8), (.81, .118*wide, d*.95))
        chest = ((.785, .124*w, d), (.72, .114*w, d*1.1), (.63, .095*w, d*1.05), (.56, .095*w, d*1.05))
        hem = ((y, a*w, b*d) for y,a,b in _HEM[t.upper])
        cv.polygon(self.slab(*shoulders, *chest, *hem), self.upper)
        for f in self.rng.uniform(-1, 1, 3):
            x,y = self.at(f*.07, self.rng.uniform(.55, .68), 0)
            cv.crease([(x - .03*u, y - .01*u), (x, y + .005*u), (x + .035*u, y + .03*u)], 100, self.zoom)
        if self.front: self.chest()
        elif t.upper == 'hoodie': cv.ellipse(*self.at(0, .83, -.05), .065*u*(abs(self.c) + .3), .04*u, t.upper_colour)

    def chest(self):
        "Opening, buttons, pocket or print, seen from the front only"
        t,u,cv,at = self.t,self.u,self.canvas,self.at
        if t.upper in ('jacket', 'coat'):
            end = .46 if t.upper == 'jacket' else .4
            opening = [at(-.03, .84, .06), at(.03, .84, .06), at(.03, end, .06), at(-.03, end, .06)]
            cv.fill('polygon', opening, t.second_colour)
            for x in (-.03, .03): cv.crease([at(x, .84, .06), at(1.1*x, end, .06)], 80, 2*self.zoom)
        elif t.upper == 'shirt':
            cv.crease([at(0, .83, .06), at(0, .5, .06)], 96, self.zoom)
            for x in (-.04, .04): cv.crease([at(0, .83, .06), at(x, .845, .03)], 84, 2*self.zoom)
        elif t.upper == 'hoodie':
            pocket = [at(-.05, .56, .06), at(-.035, .63, .06), at(.035, .63, .06), at(.05, .56, .06)]
            cv.crease(pocket, 90, 2*self.zoom)
        if t.pattern == 'print' and t.upper in ('t-shirt', 'hoodie', 'shirt'):
            x,y = at(0, .72, .06)
            cv.ellipse(x, y, .05*u*self.c, .038*u, t.second_colour, shaded=False)
            cv.band([(x - .045*u*self.c, y + .055*u), (x + .045*u*self.c, y + .055*u)], .012*u, t.second_colour)

    def head(self):
        t,u,cv,c,s = self.t,self.u,self.canvas,self.c,self.s
        x,y = self.at(0, .925, .012)
        rx,ry = .05*u*(1 + .12*abs(s)), .066*u
        cv.limb([self.at(0, .82, 0), (x, y)], [.03*u, .028*u], t.skin, .85)
        if t.style == 'bun': cv.ellipse(x - s*.05*u, y - .05*u, .026*u, .026*u, t.hair)
        cv.ellipse(x, y, rx*1.02, ry, t.skin)
        # short hair leaves the nape free, whatever the direction
        low = 1.05 if t.style in ('long', 'bun') else .84
        if t.style != 'bald': cv.ellipse(x - s*.008*u, y + (low - 1.07)*ry, rx*1.08, ry*low, t.hair)
        if c > -.45: self.face(x + s*rx*.42, y, rx*(.9 - .38*abs(s))*min(1., (c + .75)/.75), ry)
        if t.style in ('long', 'bun', 'short'):
            cv.ellipse(x - s*.012*u, y - .046*u, rx*1.04, ry*.4, t.hair, shaded=False)
        elif t.style == 'cap':
            cv.ellipse(x, y - .036*u, rx*1.14, ry*.6, t.cap)
            peak = [(x + s*.02*u, y - .02*u), (x + s*.075*u, y - .014*u)]
            if c > -.3: cv.limb(peak, [.03*u*max(c, .3), .012*u], t.cap, .9)

    def face(self, x, y, rx, ry):
        u,cv = self.u,self.canvas
        cv.ellipse(x, y + .012*u, rx, ry*.84, self.t.skin)
        for side in (-1, 1):
            eye = x + side*rx*.42*max(self.c, 0) + self.s*rx*.45
            ey = y + .004*u
            cv.crease([(eye - .011*u, ey), (eye + .011*u, ey)], 62, 2*self.zoom)
            cv.crease([(eye - .013*u, ey - .014*u), (eye + .013*u, ey - .014*u)], 88, self.zoom)
        nose,lips = x + self.s*rx*.4, .014*u*max(self.c, .3)
        cv.crease([(nose, y + .012*u), (nose + self.s*rx*.3, y + .028*u)], 104, self.zoom)
        cv.crease([(nose - lips, y + .042*u), (nose + lips, y + .042*u)], 84, self.zoom)

    def long_hair(self):
        x,y = self.at(0, .925, .012)
        u,rx = self.u, .05*self.u
        ends = [(x - self.s*.012*u, y), (x - self.s*.03*u, y + .1*u)]
        self.canvas.limb(ends, [rx*1.14, rx*(1.1 if self.front else .95)], self.t.hair, .92)

    def backpack(self):
        x,y = self.at(0, .69, -.11)
        w = math.hypot(.088*self.c, .055*self.s)*self.u
        self.box(x, y, w, .115*self.u)
        if self.c < 0: self.canvas.crease([(x - w*.7, y + .02*self.u), (x + w*.7, y + .02*self.u)], 80, 2*self.zoom)

    def straps(self):
        for k in (-1, 1) if self.c > -.1 else ():
            points = [self.at(k*.062, .835, .03), self.at(k*.075, .7, .075), self.at(k*.1, .6, .03)]
            self.canvas.band(points, .026*self.u, self.t.bag_colour)

    def shoulder_bag(self):
        side,x = .06 if self.c >= 0 else -.06, -.13*self.wide
        strap = [self.at(.06, .835, 0), self.at(-.02, .68, side), self.at(x, .53, 0)]
        self.canvas.band(strap, .016*self.u, self.t.bag_colour)
        self.box(*self.at(x, .48, 0), (math.hypot(.03*self.c, .08*self.s) + .015)*self.u, .052*self.u)

    def draw(self):
        "All parts, the farther ones first"
        parts = [(self.depth(leg[0][0], leg[1][2]) - 1, self.leg, leg) for leg in self.legs]
        parts += [(self.depth(k*.12, -.1*self.swing*math.sin(self.turn(k))) + .035, self.arm, k) for k in (1, -1)]
        parts += [(0., self.torso), (.01, self.head)]
        if self.t.style == 'long': parts.append((-.5 if self.front else .02, self.long_hair))
        if self.t.bag == 'backpack': parts += [(self.depth(0, -.11), self.backpack), (.005, self.straps)]
        if self.t.bag == 'shoulder bag': parts.append((.02 if self.depth(-.14, 0) > -.03 else -.02, self.shoulder_bag))
        for _,part,*which in sorted(parts, key=lambda p: p[0]): part(*which)
        return self.canvas


def draw_person(
    traits:Traits,            # Who
    size:tuple[int, int],     # Picture (height, width), pixels
    feet:tuple[float, float], # `(x, y)` of the ground under the person, pixels
    unit:float,               # Height of an average person, pixels
    yaw:float,                # Walking direction, degrees: 0 towards the viewer, 90 to the right, 180 away
    pitch:float,              # How far the camera looks down, radians
    phase:float,              # Of the step, radians
    rng:np.random.Generator,  # Source of what is left: stride, arms, folds
    light:float=0.,           # Where the light comes from, -1 left to 1 right
    zoom:int=3,               # Drawn this many times finer, then reduced: smooth edges
)->tuple[np.ndarray, np.ndarray]: # Colour (h, w, 3) 0 to 255 already multiplied by cover, and cover (h, w, 1) 0 to 1
    "Draw one walking person, to be laid over a scene"
    canvas = _Figure(traits, size, feet, unit, yaw, pitch, phase, rng, light, zoom).draw()
    colour = np.asarray(canvas.colour.reduce(zoom), dtype=np.float32)
    shading = canvas.shading.filter(ImageFilter.BoxBlur(.4*zoom*max(1., unit/110))).reduce(zoom)
    cover = colour[..., 3:]/255
    return colour[..., :3]*cover*(np.asarray(shading, dtype=np.float32)[..., None]/126), cover
