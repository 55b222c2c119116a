"""The learner, which is what you deploy: a meta-learned start that adapts to new tasks. It is saved in two files."""
