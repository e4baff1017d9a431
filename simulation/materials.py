"""What x-rays meet: metals by composition, tissues by name. Codes label the metals in a mask."""
METAL_CODES: dict[str, int] = {"titanium": 1, "steel": 2, "cocr": 3, "gold": 4, "amalgam": 5, "tantalum": 6, "platinum": 7}
