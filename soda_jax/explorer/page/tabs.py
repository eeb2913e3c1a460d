"""The tabs that draw an image, or two, without a direction."""

import gradio as gr
import numpy as np

from soda_jax.explorer import actions
from soda_jax.explorer.actions import quiet
from soda_jax.explorer.cameras import novel_views
from soda_jax.explorer.explorer import Explorer
from soda_jax.explorer.page.widgets import (
    PROGRESS,
    Controls,
    Tab,
    answered,
    captioned,
    film_of,
    keep,
    needed,
    picture,
    pictures,
    pictures_of,
    ready,
    reporter,
    sampling,
)
from soda_jax.inference.series import num_sections
from soda_jax.models.capabilities import NOISE, can

_MOST_NOISES = 8
_TURN = 24  # views of a turntable


def reconstruct(explorer: Explorer, chosen: list[gr.State], common: Controls) -> Tab:
    """Image A drawn from its latent."""
    model, files = explorer.model, explorer.downloads
    noise = can(model.inference.model, NOISE)
    with gr.Tab("Reconstruct") as item:
        gr.Markdown("Image A, drawn from its latent alone: what differs between noises, the latent leaves open.")
        noises = gr.Slider(1, _MOST_NOISES, 4, step=1, label="Noises", visible=noise)
        draw = gr.Button("Draw", variant="primary")
        gallery = pictures("From the latent", "reconstructions")
        with gr.Row():
            png = keep("Download PNG", "reconstruct_png")

    def captions(images: np.ndarray) -> list[str]:
        return [f"noise {i + 1}" for i in range(len(images))] if noise else ["no noise"]

    def preview(first, second, guidance, steps, seed, count):
        wanted = sampling(model, guidance, steps, seed).preview()
        images = actions.reconstruct(model, needed(first, "A"), wanted, int(count))
        return captioned(files, images, captions(images))

    def full(first, second, guidance, steps, seed, count, progress=PROGRESS):
        wanted, report = sampling(model, guidance, steps, seed), reporter(progress, "drawing")
        images = actions.reconstruct(model, needed(first, "A"), wanted, int(count), report)
        strip = {"image": first.views[0]} | dict(zip(captions(images), images, strict=True))
        return captioned(files, images, captions(images)), ready(files.strip("reconstruct", strip))

    draw.click(answered(full), [*chosen, *common, noises], [gallery, png], api_name="reconstruct")
    return Tab(item, "Reconstruct", preview, [noises], [gallery])


def walk(explorer: Explorer, chosen: list[gr.State], common: Controls) -> Tab:
    """From image A to image B."""
    model, files = explorer.model, explorer.downloads
    with gr.Tab("Walk") as item:
        gr.Markdown("From image A to image B on a straight line through the latent, all frames from the same noise.")
        share = gr.Slider(0.0, 1.0, 0.5, step=0.01, label="Place between A (0) and B (1)")
        image = picture("Between A and B", "walk_image")
        with gr.Row():
            frames = gr.Slider(3, 25, 9, step=2, label="Frames")
            draw = gr.Button("Draw the walk", variant="primary")
        strip = pictures("The walk", "walk_frames", is_later=True)
        film = picture("As a film", "walk_film", is_film=True)
        with gr.Row():
            png, gif = keep("Download PNG", "walk_png"), keep("Download GIF", "walk_gif")

    def preview(first, second, guidance, steps, seed, at):
        wanted = sampling(model, guidance, steps, seed).preview()
        return files.shown(actions.walk(model, needed(first, "A"), needed(second, "B"), (at,), wanted)[0])

    def full(first, second, guidance, steps, seed, count, progress=PROGRESS):
        shares = np.linspace(0, 1, int(count))
        wanted, report = sampling(model, guidance, steps, seed), reporter(progress, "drawing the walk")
        images = actions.walk(model, needed(first, "A"), needed(second, "B"), shares, wanted, report)
        names = [f"{at:.2f}" for at in shares]
        png_file = files.strip("walk", dict(zip(names, images, strict=True)))
        gif_file = files.film("walk", images)
        return pictures_of(files, images, names), film_of(gif_file), ready(png_file), ready(gif_file)

    draw.click(answered(full), [*chosen, *common, frames], [strip, film, png, gif], api_name="walk")
    return Tab(item, "Walk", preview, [share], [image])


def mix(explorer: Explorer, chosen: list[gr.State], common: Controls) -> Tab:
    """Sections of image A and of image B."""
    model, files = explorer.model, explorer.downloads
    sections = num_sections(model.inference)
    captions = ["structure of A, style of B", "structure of B, style of A"]
    with gr.Tab("Mix") as item:
        gr.Markdown(
            f"The inner sections of one image, the outer ones of the other. The latent has {sections}, 0 the innermost."
        )
        cut = gr.Slider(1, sections - 1, sections // 2, step=1, label="Sections of the structure, from the innermost")
        draw = gr.Button("Draw", variant="primary")
        gallery = pictures("Mixed", "mixed")
        with gr.Row():
            png = keep("Download PNG", "mix_png")

    def preview(first, second, guidance, steps, seed, at):
        wanted = sampling(model, guidance, steps, seed).preview()
        return captioned(files, actions.mix(model, needed(first, "A"), needed(second, "B"), int(at), wanted), captions)

    def full(first, second, guidance, steps, seed, at, progress=PROGRESS):
        wanted, report = sampling(model, guidance, steps, seed), reporter(progress, "drawing")
        images = actions.mix(model, needed(first, "A"), needed(second, "B"), int(at), wanted, report)
        strip = {"A": first.views[0], "B": second.views[0]} | dict(zip(captions, images, strict=True))
        return captioned(files, images, captions), ready(files.strip("mix", strip))

    draw.click(answered(full), [*chosen, *common, cut], [gallery, png], api_name="mix")
    return Tab(item, "Mix", preview, [cut], [gallery])


def resample(explorer: Explorer, chosen: list[gr.State], common: Controls) -> Tab:
    """Sections of image A left to chance."""
    model, files = explorer.model, explorer.downloads
    sections = num_sections(model.inference)
    with gr.Tab("Resample") as item:
        gr.Markdown("Image A without some sections of its latent: what these carry is drawn anew, the rest is kept.")
        dropped = gr.CheckboxGroup(
            [(str(section), section) for section in range(sections)],
            value=list(range(max(sections // 2, 1))),
            label="Sections left to chance",
            info="0 is the innermost",
        )
        count = gr.Slider(1, _MOST_NOISES, 4, step=1, label="Noises")
        draw = gr.Button("Draw", variant="primary")
        gallery = pictures("Drawn anew", "resampled")
        with gr.Row():
            png = keep("Download PNG", "resample_png")

    def preview(first, second, guidance, steps, seed, rows, number):
        wanted = sampling(model, guidance, steps, seed).preview()
        images = actions.resample(model, needed(first, "A"), rows, wanted, int(number))
        return captioned(files, images, [f"noise {i + 1}" for i in range(len(images))])

    def full(first, second, guidance, steps, seed, rows, number, progress=PROGRESS):
        wanted, report = sampling(model, guidance, steps, seed), reporter(progress, "drawing")
        images = actions.resample(model, needed(first, "A"), rows, wanted, int(number), report)
        names = [f"noise {i + 1}" for i in range(len(images))]
        strip = {"image": first.views[0]} | dict(zip(names, images, strict=True))
        return captioned(files, images, names), ready(files.strip("resample", strip))

    draw.click(answered(full), [*chosen, *common, dropped, count], [gallery, png], api_name="resample")
    return Tab(item, "Resample", preview, [dropped, count], [gallery])


def novel_view(explorer: Explorer, chosen: list[gr.State], common: Controls) -> Tab:
    """The object of image A from other cameras."""
    model, files, place = explorer.model, explorer.downloads, explorer.around
    with gr.Tab("Novel view") as item:
        if place is None:
            gr.Markdown("No held-out images with cameras are here, so it is unknown where cameras should stand.")
            return Tab(item, "Novel view", None, [], [])
        views = explorer.held_out.views.shape[1]
        gr.Markdown("The object of image A, from where you ask. Uploaded images have unknown cameras.")
        with gr.Row():
            azimuth = gr.Slider(0, 359, 0, step=1, label="Azimuth in degrees")
            altitude = gr.Slider(-80, 85, round(place.altitude), step=1, label="Altitude in degrees")
            sources = gr.Slider(1, max(views, 2), views, step=1, label="Sources", visible=views > 1)
        image = picture("The new view", "novel_view")
        with gr.Row():
            draw, turn = gr.Button("Draw", variant="primary"), gr.Button("Draw a whole turn")
        film = picture("A whole turn", "turn_film", is_film=True)
        with gr.Row():
            png, gif = keep("Download PNG", "novel_view_png"), keep("Download GIF", "turn_gif")

    def run(first, wanted, azimuths, at, number, report=quiet):
        object_ = needed(first, "A")
        number = min(int(number), len(object_.views))
        return novel_views(model, object_, place, azimuths, at, number, wanted, report)

    def preview(first, second, guidance, steps, seed, around, at, number):
        return files.shown(run(first, sampling(model, guidance, steps, seed).preview(), [around], at, number)[0])

    def full(first, second, guidance, steps, seed, around, at, number, progress=PROGRESS):
        wanted, report = sampling(model, guidance, steps, seed), reporter(progress, "drawing")
        view = run(first, wanted, [around], at, number, report)[0]
        known = {f"source {i + 1}": image for i, image in enumerate(first.views[: int(number)])}
        strip = files.strip("novel_view", known | {f"{around:g}°, {at:g}° up": view})
        return files.shown(view), ready(strip)

    def whole(first, second, guidance, steps, seed, at, number, progress=PROGRESS):
        azimuths = (np.arange(_TURN) * 360 / _TURN).tolist()
        wanted, report = sampling(model, guidance, steps, seed), reporter(progress, "drawing the turn")
        frames = run(first, wanted, azimuths, at, number, report)
        path = files.film("turn", frames, returns=False)
        return film_of(path), ready(path)

    own = [azimuth, altitude, sources]
    draw.click(answered(full), [*chosen, *common, *own], [image, png], api_name="novel_view")
    turn.click(answered(whole), [*chosen, *common, altitude, sources], [film, gif], api_name="turn")
    return Tab(item, "Novel view", preview, own, [image])
