"""`predictions.npz`: the logits, and files of an earlier version without them."""

import numpy as np

from tests.support import toy
from tests.support.toy import settings, train

tiny = toy.tiny


def test_a_run_goes_on_over_a_file_without_logits(tmp_path):
    config = settings('finetune', steps=2, eval_every=2, checkpoint_every=2, num_seeds=2)
    train(config, tmp_path)
    path = tmp_path / 'predictions.npz'
    with np.load(path) as found:
        arrays = dict(found)
    logits = arrays.pop('logits')
    np.testing.assert_array_equal(logits.argmax(-1), arrays['predicted'])
    np.savez(path, **arrays)
    with config.unlocked():
        config.steps = 4
    train(config, tmp_path)  # the first seed is saved beside the old line of the second
    with np.load(path) as found:
        assert found['step'].tolist() == [4, 4] and found['predicted'].shape == logits.shape[:2]
