"""One step of learning and many of them: losses, optimizers, schedules, evaluation."""
