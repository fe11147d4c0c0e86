"""Pictures and tables in, batches out

table         The one table of images: read, checked, described, split, written
splits        Which pictures are trained on, and which are judged
pairs         `pairs.csv`: who is compared with whom
templates     `templates.csv`: several pictures judged as one
labels        Quality labels that come in a file of their own
made          A set that was made in the same way already
folders       The pictures below a folder, and what is passed over
pictures      A picture opened, wherever it lies and whatever it is: upright, RGB, 8 bits
pixels        Any mode, array or tensor as RGB of 8 bits
sources       Pictures inside record files, by their address
bins          Verification sets in `.bin` files
packing       Pictures back into record files and `.bin` files
alignment     Five landmarks of a face to the usual template
degradations  Making one picture worse, by a known severity
degraded      Copies of a whole set at stated severities
down_sampled  Pictures of several resolutions
copies        Degraded copies of the pictures of a batch, of known severity
blocks        `IdentityBlock`, `QualityBlock`, `SceneBlock`: what a batch holds beside pictures
transforms    Augmentation of a picture: squish, crop, mirror, erase, low resolution, light
given         Whatever is handed over as pictures, as rows with their files
order         The order of one pass over training pictures
within        What is within loaders: that which deals out, the size of pictures
draws         What is drawn in work that others do not do
halves        Pictures and their partners, changed apart
kept          Pictures decoded once, in memory, on the device or in a mapped file
loaders       Batches of `n_ids` x `n_imgs`, partners, and the whole way from a table to `DataLoaders`
"""
