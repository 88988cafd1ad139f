"""What the tables of EXP-002 call things, for those who fill them and for those who draw them."""

# What u and v of each family of planes are called.
FAMILIES = {
    "random": ("random", "random"),
    "hessian": ("top", "bottom"),
    "manifold": ("tangent", "normal"),
    "minima": ("runner-up", "random"),
    "trajectory": ("pc1", "pc2"),
}
