"""The data plane: turns a SchedulerOutput into tensors, runs the model, samples."""
