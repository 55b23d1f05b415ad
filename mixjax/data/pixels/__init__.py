"""From image files to arrays: decoding, resizing, and the cache of decoded images."""
