"""What is trained: families of models, images, the training loop, exports.

    from models.cae import CAE, CAEConfig
    from models.export import load_export

``import genstudy`` gives the same names in one place. models/README.md names every file.
"""
