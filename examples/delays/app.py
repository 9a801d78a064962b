"""The app: `flightserve run examples.delays.app:app`.

`POST /v1/delays/run` takes flights and answers how late they arrive, and why. Of ten requests nine go to the quick
model and one to the careful one; those with one `x-request-key` go to the same.
"""

from __future__ import annotations

import flightserve as fs
from examples.delays import training
from examples.delays.stages import Clean, Explain, Features, Weather

clean, weather, features, explain = fs.bind(Clean), fs.bind(Weather), fs.bind(Features), fs.bind(Explain)
models = {
    name: fs.models.Sklearn(path, name=name, trusted=True)  # fitted on this machine
    for name, path in training.ensure().items()
}
model = fs.split({models["quick"]: 0.9, models["careful"]: 0.1}, name="model")

delays = fs.pipeline("delays", clean.clean >> weather.add >> features.build >> fs.join(model.predict, explain.why))
app = fs.App(delays, model)
