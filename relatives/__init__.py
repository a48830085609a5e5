"""What the successors of DPO and GRPO change in their losses: a file for each family."""
