"""Networks behind HTTP: a page to try them on, and an API (`mixjax serve`).

`batcher` joins simultaneous images to batches, `served` is one network with everything that is compiled for it, `app`
has the routes, `access` says who may ask, `room` how much there may be at once, and `server` listens. Nothing of a
request is kept or written. It needs the extra `mixjax[serve]`.
"""
