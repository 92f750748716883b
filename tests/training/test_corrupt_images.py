import pytest
import tensorflow as tf

from tests.helpers.fake_records import FakeRecords
from universal_embedding.errors import UserError
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.trainer import train


@pytest.mark.parametrize(
    "corrupt", [pytest.param(range(50), marks=pytest.mark.slow), range(25, 50)]
)  # in the first batch, or later
def test_training_stops_with_the_domain_and_id_of_a_corrupt_image(
    config, records, tmp_path, corrupt, input_preview
):
    images = list(records["boats"].images)
    for i in corrupt:
        images[i] = images[i][:100]
    records = {**records, "boats": FakeRecords("boats", records["boats"].labels, images)}
    experiment = Experiment.from_config(
        config, records, tmp_path / "run", tf.distribute.get_strategy()
    )
    names = "|".join(f"'boats/{i}.jpg'" for i in corrupt)
    with pytest.raises(UserError, match=f"({names}) of domain 'boats', split 'train'"):
        train(experiment, default_hooks(experiment))
