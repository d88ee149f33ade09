"""Windows on Flink: the job, its submission, its state. Flink itself lives in an environment of its own."""
