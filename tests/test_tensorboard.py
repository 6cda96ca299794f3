from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.runs.tensorboard import StageScalars


def row(epoch):
    return {
        "epoch": epoch,
        "lr": 0.1,
        **dict.fromkeys(("train_loss", "test_loss", "train_accuracy", "test_accuracy"), 1.0),
    }


def test_an_epoch_that_is_trained_again_is_shown_once(tmp_path):
    with StageScalars(tmp_path, "level_00", 0, []) as scalars:
        scalars.add(row(1))
    with StageScalars(tmp_path, "level_01", 1, []) as scalars:
        for epoch in (1, 2, 3):
            scalars.add(row(epoch))
    with StageScalars(tmp_path, "level_01", 1, [row(1)]) as scalars:  # the process died; epoch 1 was saved
        for epoch in (2, 3):
            scalars.add(row(epoch))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss/train")] == [1, 2, 3, 4]
