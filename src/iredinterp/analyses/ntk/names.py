"""What the tables of EXP-008 call things, for those who fill them and for those who draw them."""

KIND = "q_sample"
KERNELS = ("E", "g", "r")
LAYERS = ("fc1", "fc2", "fc3", "fc4", "t_map_fc2", "t_map_fc3", "time_mlp.1", "time_mlp.3")
TARGETS = ("residual", "noise", "answer")
SAME, OTHER = "same problem", "other problems"

KERNEL = "g"
FIRST, LAST = "since step 0", "since the last snapshot"
