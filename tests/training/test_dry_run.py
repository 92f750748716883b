import json
import types

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding import cli
from universal_embedding.commands.config_flag import read_config_flag
from universal_embedding.errors import UserError
from universal_embedding.training import hardware
from universal_embedding.training.config import stage
from universal_embedding.training.dry_run.devices import find_device
from universal_embedding.training.dry_run.estimate import estimate_run
from universal_embedding.training.dry_run.tracing import (
    build_without_memory,
    planned_records,
    trace_step,
)


@pytest.mark.parametrize(
    ("name", "replicas", "hosts", "petaflops", "gigabytes"),
    [
        ("v3-8", 8, 1, 4 * 0.123, 4 * 32 * 1.0737),
        ("v3-32", 32, 4, 16 * 0.123, 16 * 32 * 1.0737),
        ("v4-8", 4, 1, 4 * 0.275, 4 * 32 * 1.0737),
        ("v4-32", 16, 4, 16 * 0.275, 16 * 32 * 1.0737),
        ("v5e-8", 8, 1, 8 * 0.197, 8 * 16),
        ("v5e-16", 16, 4, 16 * 0.197, 16 * 16),
        ("v5p-16", 8, 2, 8 * 0.459, 8 * 95),
        ("v6e-8", 8, 1, 8 * 0.918, 8 * 32),
        ("h100x8", 8, 1, 8 * 0.9894, 8 * 80),
        ("a100-80gbx16", 16, 2, 16 * 0.312, 16 * 80),
    ],
)
def test_devices_have_the_published_numbers(name, replicas, hosts, petaflops, gigabytes):
    device = find_device(name)
    assert (device.num_replicas, device.num_hosts) == (replicas, hosts)
    assert device.peak_flops * replicas == pytest.approx(petaflops * 1e15)
    assert device.memory * replicas == pytest.approx(gigabytes * 1e9, rel=1e-4)
    assert device.peak_flops_float32 <= device.peak_flops


@pytest.mark.parametrize(
    "name", ["v9-8", "v3-9", "h100", "h100x9", "h100x0", "x8", "tpu", "h100x" + "8" * 5000]
)
def test_unknown_devices_are_refused_with_the_known_ones(name):
    with pytest.raises(UserError) as error:
        find_device(name)
    assert all(known in str(error.value) for known in (f"--device={name}", "v3-8|32", "h100"))
    assert "\n" not in str(error.value)


def num_bytes(values):
    return sum(v.shape.num_elements() * v.dtype.size for v in values)


def test_run_without_memory_is_the_run(make_experiment, config, records):
    config.optimizer.ema_decay = 0.9
    config.model.embedding_dim = 2000  # 16 kB times the size of the features
    real = make_experiment()
    planned = build_without_memory(config, records, remat=False)
    states = real.checkpoint_state(), planned.checkpoint_state()
    sizes = [{owner: num_bytes(values) for owner, values in state.items()} for state in states]
    assert sizes[0] == sizes[1]
    large = [v for values in states[1].values() for v in values if num_bytes([v]) > 4096]
    assert len(large) >= 5  # the projection, its slots and its average, and the classes'
    assert not any(v.is_initialized() for v in large)
    graphs = [trace_step(e, e.stages[0], 12, compiled=False)[0] for e in (real, planned)]
    assert [n.type for n in graphs[0].nodes] == [n.type for n in graphs[1].nodes]


def test_parts_of_an_estimate_add_up(make_experiment, config, records):
    config.optimizer.ema_decay = 0.9
    config.max_to_keep = 2
    config.evals.val.every_steps = 4
    rates = {"projection_lr": 1e-2, "head_lr": 1e-2}
    config.stages = (
        stage(name="linear", steps=10, input="features", **rates),
        stage(name="all", steps=10, backbone_lr=1e-2, **rates),
    )
    device = find_device("v5e-4")
    estimate = estimate_run(config, records, {"val": 50}, device, utilization=0.5)
    linear, both = estimate.stages
    weights = num_bytes(make_experiment().weights)
    assert linear.memory["model"] == linear.memory["ema"] == both.memory["model"] == weights
    assert both.memory["optimizer"] >= 2 * weights
    assert both.memory["input"] == 2 * 3 * (16 * 16 * 3 + 4 + 4 + 8)
    assert linear.memory["input"] == 2 * 3 * (4 * 8 + 4 + 4 + 8)
    assert both.total_memory == sum(both.memory.values())
    assert both.activations_with_remat is None  # the backbone has no blocks
    # Each image passes two convolutions, of 27 x 6 on 7 x 7 places, of 54 x 8 on 3 x 3.
    convolutions = 2 * 12 * (27 * 6 * 49 + 54 * 8 * 9)
    heads = both.forward_flops - convolutions
    assert 0 < heads < convolutions
    assert linear.forward_flops == heads
    update = both.step_seconds - (both.forward_flops + both.backward_flops) / (
        4 * device.peak_flops * 0.5
    )
    assert 0 < update < 1e-6
    assert estimate.num_eval_images == 50 * 6  # after 4, 8, 10, 12, 16 and 20 steps
    features = sum(map(len, records.values())) * 8 * 4
    complete = estimate.checkpoint_bytes
    assert 3 * complete + features < estimate.disk_bytes < 5 * complete + features
    assert json.loads(json.dumps(estimate.to_dict()))["stages"][1]["name"] == "all"


def test_estimate_grows_with_the_share_of_a_replica(config, records):
    def memory(device):
        return estimate_run(config, records, {"val": 0}, find_device(device), 0.4).stages[0].memory

    one, four = memory("v5e-1"), memory("v5e-4")
    assert one["input"] == 4 * four["input"]
    assert one["activations"] > 2 * four["activations"]
    assert one["model"] == four["model"]


def test_batches_that_do_not_divide_are_refused(config, records):
    with pytest.raises(UserError, match=r"batch_size of .* is 12.*8 replicas of --device=v3-8"):
        estimate_run(config, records, {"val": 0}, find_device("v3-8"), 0.4)


def test_classes_of_data_that_is_not_prepared_are_the_published_ones():
    config = read_config_flag("uned")
    sizes = {key: len(domain) for key, domain in planned_records(config).items()}
    assert sizes["met"] == 224_408
    assert sum(sizes.values()) == 316_446
    with pytest.raises(UserError, match="prepare it before"):
        planned_records(read_config_flag("uned_mini"))


def run_command(*flags):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--config=uned:runlocal", "--dry_run", *flags])
    return ended.value.code


def test_command_prints_the_estimate_and_writes_the_numbers(capsys, tmp_path):
    output, data_dir = tmp_path / "estimate.json", tmp_path / "data"
    assert run_command("--device=v4-16", f"--output={output}", f"--data_dir={data_dir}") == 0
    text = capsys.readouterr().out
    numbers = json.loads(output.read_text())
    assert text.startswith(
        "Estimate for v4-16: 8 replicas of 34.36 GB on 2 hosts; nothing was run."
    )
    assert "A TPU of 2 hosts is refused without --allow_unproven_slice: no step was ever" in text
    assert [stage["name"] for stage in numbers["stages"]] == ["head", "all"]
    total = numbers["stages"][1]["total_memory"]
    assert f"{total / 1e9:.2f}" in text
    assert numbers["checkpoint_bytes"] > 3 * 316_446 * 64 * 4
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--dry_run needs the device"),
        (("--device=v3-7",), "--device=v3-7 is not known"),
        (("--device=v3-8", "--utilization=2"), "2 is not in 0.01..1"),
    ],
)
def test_wrong_flags_end_in_one_line(flags, message, capsys):
    assert run_command(*flags) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--device=v3-8", "--output=numbers.json"])
def test_flags_of_a_dry_run_are_refused_without_it(flag, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--config=uned:runlocal", "--workdir=run", flag])
    assert f"error: {flag} needs --dry_run" in capsys.readouterr().err


def test_training_needs_a_run_directory(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--config=uned:runlocal"])
    assert "error: --workdir is missing" in capsys.readouterr().err


def test_hardware_is_described_and_detected(monkeypatch):
    strategy = tf.distribute.get_strategy()
    facts = hardware.describe_hardware(strategy)
    assert facts["num_replicas"] == facts["num_hosts"] == 1
    assert facts["devices"] == ["CPU"]
    assert hardware.detect_device(strategy) is None
    assert hardware.peak_memory() is None
    gpus = types.SimpleNamespace(num_replicas_in_sync=8)
    monkeypatch.setattr(hardware, "_device_kinds", lambda: ["NVIDIA H100 80GB HBM3"])
    assert hardware.detect_device(gpus).name == "h100x8"
    assert np.isclose(hardware.detect_device(gpus).peak_flops, 989.4e12)
