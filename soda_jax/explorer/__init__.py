"""The page of `tools.explore`: a trained model's latent in a browser.

`actions.py` has what each tab draws, plain functions of a loaded model that give arrays; `images.py` where images come
from, `reach.py` how far an edit may go, `downloads.py` the files to keep. `page/` alone knows gradio.
"""
