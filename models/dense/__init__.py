"""How does an encoder say something of every pixel? Decoders on features of several blocks, sliding windows, scores.

May import `encoder` and `pipeline`. Read `upernet.py` first: what a method of dense prediction puts on its encoder;
`pyramid.py` makes the four strides of it, as a detector's would be made.
"""
