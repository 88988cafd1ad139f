"""The commands of `iredinterp`, a module each; what takes long to import, they import when they run."""
