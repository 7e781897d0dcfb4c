"""What layers and models check of their arguments: a ValueError names the argument, its value and what is allowed."""


def check_counts(**values):
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more.")


def check_choice(name, value, *allowed):
    if value not in allowed:
        *first, last = (f'"{choice}"' if choice else "None" for choice in allowed)
        raise ValueError(f"{name} is {value!r}; it must be {', '.join(first)} or {last}.")


def check_shares(**values):
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it must be in [0, 1).")
