"""Mathematics that needs no network: pure functions on arrays and trees, or host code around them.

The methods that use them are in `mixjax.methods`; losses and mixing, which most methods use, are `mixjax.losses` and
`mixjax.mix`. Nothing here reads files, configs or data sets.
"""
