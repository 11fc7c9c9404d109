from xinglin.training.convergence import verdict

FALLING = [(10, 3.0), (20, 2.5), (30, 2.2), (40, 2.0)]


def test_validation_that_rises_while_training_falls_is_overfitting():
    found = verdict(FALLING, [(10, 3.1), (20, 2.7), (30, 2.8), (40, 3.0)])
    assert found["verdict"] == "overfitted"
    assert "2.7000 at step 20 to 3.0000 at 40" in found["reason"] and "fell from 2.5000 to 2.0000" in found["reason"]


def test_validation_that_still_falls_was_cut_short():
    found = verdict(FALLING, [(10, 3.1), (20, 2.8), (30, 2.6), (40, 2.5)])
    assert found["verdict"] == "cut short" and "3.8%" in found["reason"] and "epochs" in found["advice"]


def test_validation_that_stands_still_has_converged():
    assert verdict(FALLING, [(10, 3.1), (20, 2.6), (30, 2.5), (60, 2.49)])["verdict"] == "converged"
    assert verdict(FALLING, [(10, 3.1), (20, 2.5), (30, 2.49), (60, 2.50)])["verdict"] == "converged"  # a rise within noise


def test_a_short_training_that_stands_still_is_told_to_take_smaller_steps():
    def advice(last):
        return verdict(FALLING, [(10, 3.1), (20, 2.5), (last, 2.49)])["advice"]

    assert "of 499 steps, first try a smaller adapter.per_device_train_batch_size" in advice(499)
    assert "steps" not in advice(500) and "batch" not in advice(500)


def test_a_handful_of_steps_never_converged():
    found = verdict(FALLING, [(2, 3.1), (3, 2.5), (4, 2.5)])
    assert found["verdict"] == "too few steps" and "4 steps say nothing" in found["reason"]


def test_both_losses_rising_is_divergence():
    found = verdict([(10, 3.0), (20, 2.5), (40, 6.0)], [(10, 3.1), (20, 2.7), (40, 7.0)])
    assert found["verdict"] == "diverged" and "learning_rate" in found["advice"]


def test_a_loss_that_is_no_number_is_divergence():
    found = verdict([(10, 3.0), (20, float("nan"))], [(10, 3.1), (20, 2.7), (40, float("nan"))])
    assert found["verdict"] == "diverged" and "step 20" in found["reason"]


def test_two_looks_say_nothing():
    assert verdict(FALLING, [(20, 2.5), (40, 2.4)])["verdict"] == "too few looks"


def test_a_training_too_short_for_two_losses_is_judged_by_validation_alone():
    for training in ([], [(5, 3.0)]):
        found = verdict(training, [(2, 3.1), (4, 2.7), (6, 3.0)])
        assert found["verdict"] == "overfitted" and found["reason"].endswith("to 3.0000 at 6")
    found = verdict([(5, 3.0), (10, 2.0)], [(4, 3.1), (9, 2.7), (12, 3.0)])
    assert found["verdict"] == "overfitted" and "fell from 3.0000 to 2.0000" in found["reason"]
