"""From waiting jobs to batches, and from what came back to each job."""
