"""Embedded data, drawn instead of downloaded: people and faces with the true quality of every picture

people         A small person re-identification set
faces          A small face set, with pairs
sets           What both share: seeds, degradation of known severity, the table
person         One walking figure
person_traits  What stays with a person from picture to picture
scenes         The places that cameras look at
face           One face
face_traits    What stays with a face
face_view      What differs between two pictures of it
solids         Ellipsoids, turned and lit, that heads are made from
"""
