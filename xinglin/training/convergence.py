"""When to stop: whether a training converged, overfitted or was cut short, with the numbers that say so."""

import math

ENOUGH = 3  # looks at the validation part before anything can be said
NOISE = 0.01  # a change of the loss below this share of it is none
HANDFUL = 50  # steps, below which a flat end says nothing: the learning rate falls to 0, wherever the loss has got to
FEW = 500  # steps, below which smaller ones may still help


def verdict(training: list[tuple[int, float]], validation: list[tuple[int, float]]) -> dict[str, str]:
    """Return `verdict`, `reason` and `advice` from the losses, each a list of (step, nats a token) in order of steps.

    diverged: a loss is no number, or both rose.
    overfitted: validation rose again after its best while training, where two losses of it are known, went on falling.
    cut short: validation was still falling over the last look.
    converged: neither; another look would have changed little.
    """
    if lost := next((step for step, loss in sorted(training + validation) if not math.isfinite(loss)), None):
        return {
            "verdict": "diverged",
            "reason": f"the loss at step {lost} is not a number",
            "advice": "lower adapter.learning_rate",
        }
    if len(validation) < ENOUGH:
        return {
            "verdict": "too few looks",
            "reason": f"{len(validation)} looks at the validation part, {ENOUGH} are the least",
            "advice": "lower adapter.eval_steps",
        }
    (before, earlier), (end, last) = validation[-2:]
    best_step, best = min(validation, key=lambda look: look[1])
    if last > best * (1 + NOISE):
        fell, beside = True, ""
        if len(training) > 1:
            then, now = around(training[:-1], best_step), training[-1][1]
            fell = now < then
            beside = f" while training {'fell' if fell else 'rose'} from {then:.4f} to {now:.4f}"
        return {
            "verdict": "overfitted" if fell else "diverged",
            "reason": f"validation rose from {best:.4f} at step {best_step} to {last:.4f} at {end}{beside}",
            "advice": "fewer adapter.num_train_epochs, more dialogues, or "
            "adapter.lora_dropout (the checkpoint kept is the best)"
            if fell
            else "lower adapter.learning_rate",
        }
    if earlier - last > earlier * NOISE:
        return {
            "verdict": "cut short",
            "reason": f"validation still fell by {(earlier - last) / earlier:.1%} from step {before} to the last, {end}: "
            f"{earlier:.4f} to {last:.4f}",
            "advice": "more adapter.num_train_epochs or a higher adapter.learning_rate",
        }
    flat = (
        f"validation moved by {abs(earlier - last) / earlier:.1%} from step {before} to the "
        f"last, {end}: {earlier:.4f} to {last:.4f}"
    )
    if end < HANDFUL:
        return {
            "verdict": "too few steps",
            "reason": f"{flat}, but {end} steps say nothing: the learning rate falls to 0 at the last",
            "advice": "more dialogues, more adapter.num_train_epochs, or a smaller adapter.per_device_train_batch_size",
        }
    short = f"of {end} steps, first try a smaller adapter.per_device_train_batch_size or a higher adapter.learning_rate; then "
    return {
        "verdict": "converged",
        "reason": flat,
        "advice": (short if end < FEW else "") + "more dialogues, another base, or a higher adapter.lora_rank",
    }


def around(losses: list[tuple[int, float]], step: int) -> float:
    """Return the training loss noted nearest to `step`."""
    return min(losses, key=lambda noted: abs(noted[0] - step))[1]
