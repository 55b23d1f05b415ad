"""Mathematics that needs no network: pure functions on arrays and trees, or host code around them.

What a single method does with them is in that method's file in `mixjax.methods`; losses and mixing, which everybody
uses, are `mixjax.losses` and `mixjax.mix`. Nothing here reads files, configs or data sets.
"""
