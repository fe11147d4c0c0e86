"""Ellipsoids seen from afar: the few solids that a generated head is modelled from, turned together and lit together.

Only additions, products, quotients and roots act on pixels, which every processor rounds alike: the same picture on
every machine."""
import math

import numpy as np

__all__ = ['Pose', 'Surface', 'soft_max']


def soft_max(
    a:np.ndarray, # Any shape
    b:np.ndarray, # Like `a`
    k:float,      # Where the two differ by less than this, the edge between them is rounded
)->np.ndarray:
    "The larger of two fields, without a crease"
    near = np.abs(a - b)
    np.subtract(k, near, out=near)
    np.maximum(near, 0, out=near)
    near *= near
    near *= .25/k
    return np.maximum(a, b) + near


def _within(start, stop, n): return slice(min(n, max(0, int(start))), min(n, max(0, int(stop))))


class Pose:
    """How a head is turned, and where each pixel of its picture lies.

    Head coordinates: x to the right of the picture, y down, z out of the face."""
    def __init__(self,
        size:tuple[int, int],       # `(height, width)`, pixels
        unit:float,                 # Half the width of an average head, pixels
        middle:tuple[float, float], # `(x, y)` in the picture of the point between eyes and mouth, pixels
        yaw:float,                  # Degrees, positive: turned to the right of the picture
        pitch:float,                # Degrees, positive: looks down
        roll:float,                 # Degrees, positive: clockwise
    ):
        angles = [math.radians(a) for a in (yaw, pitch, roll)]
        (cy, sy),(cp, sp),(cr, sr) = ((math.cos(a), math.sin(a)) for a in angles)
        x,y,z = (cy, 0., sy), (-sp*sy, cp, sp*cy), (-cp*sy, -sp, cp*cy)
        self.rows = tuple(cr*a - sr*b for a,b in zip(x, y)), tuple(sr*a + cr*b for a,b in zip(x, y)), z
        self.size,self.unit = size,unit
        px,py,_ = self.project(0, .42, .9)
        self.left,self.top = middle[0] - px*unit, middle[1] - py*unit
        self.x = ((np.arange(size[1], dtype=np.float32) + .5 - self.left)/unit)[None, :]
        self.y = ((np.arange(size[0], dtype=np.float32) + .5 - self.top)/unit)[:, None]

    def project(self, *point):
        "Where a point of the head is for the viewer: x, y in units from the centre of the head, z towards the viewer"
        x,y,z = point
        return tuple(a*x + b*y + c*z for a,b,c in self.rows)

    def window(self, x, y, rx, ry):
        "The rows and columns of the picture within reach of a place, as two slices; empty ones outside the picture"
        (h, w),u = self.size,self.unit
        left,right = self.left + (x - rx)*u - 1, self.left + (x + rx)*u + 2
        top,bottom = self.top + (y - ry)*u - 1, self.top + (y + ry)*u + 2
        return _within(top, bottom, h), _within(left, right, w)

    def near(self, x, y, z, reach):
        "`window` about a point of the head"
        px,py,_ = self.project(x, y, z)
        return self.window(px, py, reach, reach)

    def head_coordinates(self, depth, where=(slice(None), slice(None))):
        "The points of the head (x, y, z) that the pixels of a window show at a depth"
        x,y = self.x[:, where[1]], self.y[where[0]]
        return tuple(self.rows[0][k]*x + self.rows[1][k]*y + self.rows[2][k]*depth for k in range(3))

    def on_plane(self, z, where):
        "The points (x, y) of the plane that stands at `z` before the face"
        (a, b, c),(d, e, f) = self.rows[:2]
        x,y = self.x[:, where[1]] - c*z, self.y[where[0]] - f*z
        det = a*e - b*d
        return (e*x - b*y)/det, (a*y - d*x)/det

    def ellipsoid(self, centre, radii):
        """Window, depth of its front, and distance inside its outline of an ellipsoid along the axes of the head.

        The distance is in units, negative outside."""
        # squared reach along the axes of the viewer, and what of it depth has in common with x and y
        r0,r1,r2 = (r*r for r in radii)
        p,q,r = self.rows
        xx,yy,zz = (a[0]*a[0]*r0 + a[1]*a[1]*r1 + a[2]*a[2]*r2 for a in self.rows)
        xy,xz,yz = (a[0]*b[0]*r0 + a[1]*b[1]*r1 + a[2]*b[2]*r2 for a,b in ((p, q), (p, r), (q, r)))
        cx,cy,cz = self.project(*centre)
        det = xx*yy - xy*xy
        where = self.window(cx, cy, math.sqrt(xx) + .1, math.sqrt(yy) + .1)
        x,y = self.x[:, where[1]] - cx, self.y[where[0]] - cy
        inside = (1 - (yy/det)*x*x) + ((2*xy/det)*x)*y - (xx/det)*y*y
        gx,gy = (yy*xz - xy*yz)/det, (xx*yz - xy*xz)/det
        deep = math.sqrt(max(1e-9, zz - gx*xz - gy*yz))
        depth = np.maximum(inside, 0)
        np.sqrt(depth, out=depth)
        depth *= deep
        depth += cz + gx*x
        depth += gy*y
        depth += 3*np.minimum(inside, 0)
        inside *= .5*min(math.sqrt(xx), math.sqrt(yy))
        return where, depth, inside


class Surface:
    "A body of several ellipsoids: the depth of its front at each pixel, and how far inside its outline the pixel is"
    def __init__(self,
        pose:Pose, # How it is turned
    ):
        self.pose = pose
        self.depth,self.inside = np.full(pose.size, -9, np.float32), np.full(pose.size, -9, np.float32)

    def add(self, centre, radii, k=.02):
        "Melt an ellipsoid into the body; `k` is the width of the seam"
        where,depth,inside = self.pose.ellipsoid(centre, radii)
        if depth.size:
            self.depth[where] = soft_max(self.depth[where], depth, k)
            self.inside[where] = soft_max(self.inside[where], inside, min(k, .1))
        return self

    def cover(self): return np.clip(self.inside*self.pose.unit + .5, 0, 1)

    def lit(self,
        light:tuple[float, float, float], # Towards the light: x right, y down, z to the viewer; length 1
        ambient:float,  # Brightness of the shade, 0 to 1
        gloss:float=0., # Brightness of the highlight
    )->tuple[np.ndarray, np.ndarray]: # Brightness 0 to 1 and highlight
        "How bright the body is under a light"
        u,z = self.pose.unit,self.depth
        dx,dy = np.empty_like(z), np.empty_like(z)
        dx[:, 1:-1] = (z[:, 2:] - z[:, :-2])*(.5*u)
        dy[1:-1] = (z[2:] - z[:-2])*(.5*u)
        dx[:, 0],dx[:, -1] = dx[:, 1], dx[:, -2]
        dy[0],dy[-1] = dy[1], dy[-2]
        # a slope at the outline goes to infinity; bounded, it stays a rim
        dx,dy = np.clip(dx, -3, 3), np.clip(dy, -3, 3)
        length = 1/np.sqrt(dx*dx + dy*dy + 1)
        # wrapped around a little, as light is in skin
        shade = np.maximum((light[2] - dx*light[0] - dy*light[1])*length*.8 + .2, 0)
        half = [light[0], light[1], light[2] + 1]
        norm = math.sqrt(sum(v*v for v in half)) + 1e-9
        shine = np.maximum((half[2] - dx*half[0] - dy*half[1])*(length/norm), 0)
        for _ in range(4): shine = shine*shine
        return ambient + (1 - ambient)*shade, gloss*shine
