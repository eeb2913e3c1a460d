"""The latent's sections z_1 .. z_{m+1}, and ranges of them (SODA Section 3.2.1)."""

import re

import numpy as np


def section_sizes(latent_dim: int, num_sections: int) -> np.ndarray:
    """Widths of the sections, [num_sections] ints summing to latent_dim; the first ones take the remainder."""
    if latent_dim < num_sections:
        raise ValueError(f"latent_dim={latent_dim} is smaller than the {num_sections} sections; use at least that many")
    sizes = np.full(num_sections, latent_dim // num_sections)
    sizes[: latent_dim % num_sections] += 1
    return sizes


def section_of_dim(latent_dim: int, num_sections: int) -> np.ndarray:
    """The section that each latent dimension belongs to, int [latent_dim]."""
    return np.repeat(np.arange(num_sections), section_sizes(latent_dim, num_sections))


def parse_range(text: str, num_sections: int) -> tuple[int, int]:
    """The first and the last section of the inclusive range "a-b", or of "a" alone; 0 is the innermost.

    Raises:
      ValueError: for another form, or sections that the latent does not have.
    """
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f'sections={text!r}: give an inclusive range as "0-3", or one section as "2"')
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first or last >= num_sections:
        raise ValueError(
            f"sections={text!r}: the latent has sections 0-{num_sections - 1}, 0 the innermost; give a range within "
            "them, the smaller number first"
        )
    return first, last


def range_name(first: int, last: int) -> str:
    """The range in words that `parse_range` reads: "a-b", or "a" for one section."""
    return f"{first}" if first == last else f"{first}-{last}"


def dims_of(sections: str | None, latent_dim: int, num_sections: int) -> np.ndarray:
    """bool [latent_dim], the dimensions of a range "a-b" of sections; None is the whole latent."""
    if sections is None:
        return np.ones(latent_dim, bool)
    first, last = parse_range(sections, num_sections)
    section = section_of_dim(latent_dim, num_sections)
    return (section >= first) & (section <= last)


def thirds(num_sections: int) -> tuple[str, ...]:
    """Three ranges of about equal length, the innermost first; fewer where there are fewer sections."""
    parts = np.array_split(np.arange(num_sections), min(3, num_sections))
    return tuple(range_name(int(part[0]), int(part[-1])) for part in parts)
