"""From a diagnosis to a plan: which runbook, what it would touch, what exactly would run."""
