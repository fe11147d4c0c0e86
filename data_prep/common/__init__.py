"""What the scripts share; none of it is run by itself.

sets      a set is one function: its table, and its command line with the options that every set has
layout    finding a layout, reading names, drawing, holding out: what most sets need
told      the split that folders and columns tell, which is kept
forms     the forms of lists that other projects write
pictures  which pictures there are, which of them can be read, and which are copies
report    writing a table and saying what is in it
lists     pairs and templates that stand beside a table
copies    pictures written anew under another name: degraded ones, and names for any
command   a function as a command: an error is one line, its choices go into the record
matlab    lists of names and numbers in MATLAB files
"""
