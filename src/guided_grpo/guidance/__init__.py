"""Stage 2, what guidance a rollout gets: how much (strength), which rollouts (allocation), which part (slicing), where
(placement)."""
