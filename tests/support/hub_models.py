"""Models of keras-hub at their smallest, without downloads: what it builds, and what a step of training needs."""

SIZE = 64


def hub():
    """Imported late, for it takes seconds, and most tests do without."""
    import keras_hub

    return keras_hub.models


def resnet(size=None, filters=(64, 16, 16, 16)):
    return hub().ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[*filters],
        stackwise_num_blocks=[1, 1, 1, 1], stackwise_num_strides=[1, 2, 2, 2], block_type="basic_block",
        image_shape=(size, size, 3),
    )  # fmt: skip


def efficientnet():
    return hub().EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3], stackwise_num_repeats=[1, 2], stackwise_input_filters=[16, 16],
        stackwise_output_filters=[16, 24], stackwise_expansion_ratios=[1, 4],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25], stackwise_strides=[1, 2],
        stackwise_block_types=["v1", "v1"], stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False], stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0], input_shape=(SIZE, SIZE, 3),
    )  # fmt: skip


def mobilenet():
    return hub().MobileNetBackbone(
        stackwise_expansion=[[16, 24], [24, 32]], stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]], stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]], stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]], output_num_filters=32, depthwise_filters=16, depthwise_stride=2,
        depthwise_residual=False, last_layer_filter=32, squeeze_and_excite=0.5, image_shape=(SIZE, SIZE, 3),
    )  # fmt: skip


def densenet():
    return hub().DenseNetBackbone(stackwise_num_repeats=[2, 2], growth_rate=4, image_shape=(SIZE, SIZE, 3))


def hgnetv2():
    return hub().HGNetV2Backbone(
        depths=[1, 1], embedding_size=8, hidden_sizes=[16, 16], stem_channels=[3, 8, 8], hidden_act="relu",
        use_learnable_affine_block=False, stackwise_stage_filters=[(8, 8, 16, 1, 1, 3), (16, 8, 16, 1, 1, 3)],
        apply_downsample=[False, True], use_lightweight_conv_block=[False, True], image_shape=(SIZE, SIZE, 3),
    )  # fmt: skip


def cspnet():
    return hub().CSPNetBackbone(
        stem_filters=8, stem_kernel_size=3, stem_strides=1, stackwise_depth=[1, 1], stackwise_strides=[2, 2],
        stackwise_num_filters=[16, 16], block_type="dark_block", stage_type="csp",
        bottle_ratio=[0.5, 1.0], block_ratio=[1.0, 0.5], expand_ratio=[2.0, 1.0], down_growth=True,
        image_shape=(SIZE, SIZE, 3),
    )  # fmt: skip


def xception():
    return hub().XceptionBackbone(
        stackwise_conv_filters=[[8, 8], [8, 16], [16, 16]], stackwise_pooling=[True, True, False],
        image_shape=(SIZE, SIZE, 3),
    )  # fmt: skip


def deeplab():
    backbone = hub().DeepLabV3Backbone(
        image_encoder=resnet(), low_level_feature_key="P2", spatial_pyramid_pooling_key="P4", upsampling_size=4,
        dilation_rates=[2], projection_filters=8, image_shape=(SIZE, SIZE, 3),
    )  # fmt: skip
    return hub().DeepLabV3ImageSegmenter(backbone=backbone, num_classes=3)


def retinanet(norms=False):
    backbone = hub().RetinaNetBackbone(
        image_encoder=resnet(SIZE), min_level=3, max_level=5, use_p5=False, use_fpn_batch_norm=norms,
        image_shape=(SIZE, SIZE, 3),
    )  # fmt: skip
    return detector(backbone, norms)


def retinanet_with_norms():
    return retinanet(norms=True)


def detector(backbone, norms=False):
    return hub().RetinaNetObjectDetector(
        backbone=backbone, num_classes=3, use_prediction_head_norm=norms, pre_logits_num_conv_layers=1
    )


def classifier():
    return hub().ResNetImageClassifier(backbone=resnet(SIZE), num_classes=3, activation="softmax")


def segformer():
    encoder = hub().MiTBackbone(
        layerwise_depths=[1, 1], num_layers=2, layerwise_num_heads=[1, 2], layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0, layerwise_patch_sizes=[7, 3], layerwise_strides=[4, 2], image_shape=(SIZE, SIZE, 3),
        hidden_dims=[8, 16],
    )  # fmt: skip
    backbone = hub().SegFormerBackbone(image_encoder=encoder, projection_filters=8)
    return hub().SegFormerImageSegmenter(backbone=backbone, num_classes=3)


def basnet():
    encoder = resnet(filters=[64, 128, 256, 512])
    backbone = hub().BASNetBackbone(image_encoder=encoder, num_classes=1, image_shape=(SIZE, SIZE, 3))
    return hub().BASNetImageSegmenter(backbone)


def vae():
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    return VAEBackbone([32, 32], [1, 1], [32, 32], [1, 1], sampler_method="mode", sample_channels=4)


def vit():
    return hub().ViTBackbone(
        image_shape=(SIZE, SIZE, 3), patch_size=(16, 16), num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )


def bert():
    return hub().BertBackbone(vocabulary_size=20, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16,
                            max_sequence_length=8, dropout=0.0)  # fmt: skip


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox"]


def text_classifier():
    tokenizer = hub().BertTokenizer(vocabulary=VOCABULARY)
    preprocessor = hub().BertTextClassifierPreprocessor(tokenizer, sequence_length=8)
    return hub().BertTextClassifier(backbone=bert(), num_classes=2, preprocessor=preprocessor)
