//! A model as files: what is written reads back, and what is broken is refused.

use base::ErrorKind;
use deepar::Model;
use forecast::{PredictOptions, Predictor};

use super::{hyper, sines, trained};

fn model() -> (Model, forecast::Dataset) {
    let mut data = sines(3, 200);
    for (k, series) in data.series.iter_mut().enumerate() {
        series.feat_static_cat = vec![k as u32];
    }
    (trained(&hyper(&[("num_layers", "3")]), &data), data)
}

#[test]
fn a_loaded_model_forecasts_the_same() {
    let (model, data) = model();
    let files = model.to_files().unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["weights.safetensors", "model.json"]);
    let loaded = Model::from_files(&files).unwrap();
    assert!(loaded.to_files().unwrap() == files);
    let options = PredictOptions { want_samples: true, ..PredictOptions::default() };
    assert_eq!(
        loaded.predict(&data.series, &options).unwrap(),
        model.predict(&data.series, &options).unwrap()
    );
    assert_eq!(loaded.provenance(), model.provenance());
    assert_eq!(loaded.report(), model.report());
    assert_eq!(loaded.provenance().data_sha256.len(), 64);
}

#[test]
fn tensors_have_pytorch_names_and_no_padding() {
    let (model, _) = model();
    let files = model.to_files().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&files[0].1).unwrap();
    let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
    assert_eq!(shape("lstm.weight_ih_l0"), [40, 45]);
    assert_eq!(shape("lstm.weight_hh_l2"), [40, 10]);
    assert_eq!(shape("lstm.weight_static"), [40, 11]);
    assert_eq!(shape("embedding.0"), [3, 10]);
    assert_eq!(shape("head.weight"), [3, 10]);
}

#[test]
fn a_description_that_does_not_fit_is_refused() {
    let (model, _) = model();
    let files = model.to_files().unwrap();
    let text = String::from_utf8(files[1].1.clone()).unwrap();
    for (from, to, kind, expect) in [
        (
            "\"format_version\": 1",
            "\"format_version\": 2",
            ErrorKind::Unsupported,
            "model format 2",
        ),
        ("forebay-deepar", "pickle", ErrorKind::Corrupt, "of another format"),
        ("\"num_cells\": 10", "\"num_cells\": 11", ErrorKind::Corrupt, "declared is F32"),
        (
            "\"num_cells\": 10",
            "\"num_cells\": 99999999",
            ErrorKind::Corrupt,
            "num_cells is \"99999999\"",
        ),
        (
            "\"num_cells\": 10",
            "\"num_cells\": 1024",
            ErrorKind::Corrupt,
            "too small for the network",
        ),
        ("\"num_layers\": 3", "\"num_layers\": 0", ErrorKind::Corrupt, "num_layers is \"0\""),
        ("\"num_layers\": 3", "\"num_layers\": 2", ErrorKind::Corrupt, "10 are declared"),
        (
            "\"embedding_dimension\": 10",
            "\"embedding_dimension\": 1000",
            ErrorKind::Corrupt,
            "not a DeepAR",
        ),
        (
            "\"likelihood\": \"student-T\"",
            "\"likelihood\": \"gaussian\"",
            ErrorKind::Corrupt,
            "head.weight",
        ),
        ("\"dropout_rate\": 0.1", "\"dropout_rate\": 1.5", ErrorKind::Corrupt, "dropout_rate"),
        ("\"time_freq\": \"1H\"", "\"time_freq\": \"1D\"", ErrorKind::Corrupt, "lstm.weight_ih_l0"),
        ("\"num_dynamic_feat\": 0", "\"num_dynamic_feat\": 7", ErrorKind::Corrupt, "scaling"),
        ("\"log_scale_spread\": 0.5", "\"log_scale_spread\": 0.0", ErrorKind::Corrupt, "scaling"),
        ("\"scale_default\": ", "\"scale_default\": -", ErrorKind::Corrupt, "scaling"),
        ("{", "[", ErrorKind::Corrupt, "model.json"),
    ] {
        let broken = text.replacen(from, to, 1);
        assert!(broken != text, "{from} is not in the description");
        let error =
            Model::from_files(&[files[0].clone(), ("model.json".into(), broken.into_bytes())])
                .unwrap_err();
        assert_eq!(error.kind(), kind, "{to}: {error}");
        assert!(error.to_string().contains(expect), "{to}: {error}");
    }
}

#[test]
fn weights_that_are_broken_are_refused_and_never_panic() {
    let (model, _) = model();
    let files = model.to_files().unwrap();
    let weights = &files[0].1;
    let load = |bytes: Vec<u8>| {
        Model::from_files(&[("weights.safetensors".into(), bytes), files[1].clone()])
    };
    for missing in 0..2 {
        let error = Model::from_files(&files[missing..=missing]).unwrap_err();
        assert!(error.to_string().contains("is missing"), "{error}");
    }
    for value in [f32::NAN, f32::INFINITY] {
        let mut bytes = weights.clone();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&value.to_le_bytes());
        assert!(load(bytes).unwrap_err().to_string().contains("holds"), "{value}");
    }
    for len in [0, 1, 7, 8, 9, 100, weights.len() - 1] {
        assert!(load(weights[..len].to_vec()).is_err());
    }
    // The length of the header, in its first eight bytes, as far as it goes.
    let mut bytes = weights.clone();
    bytes[..8].fill(0xff);
    assert!(load(bytes).is_err());
    // Every byte of the header changed in turn: loads or not, but returns.
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    for at in (0..header).step_by(3) {
        for byte in [0, b'"', b'9', 0xff] {
            let mut bytes = weights.clone();
            bytes[at] = byte;
            drop(load(bytes));
        }
    }
    let text = &files[1].1;
    for at in (0..text.len()).step_by(7) {
        for byte in [b'-', b'9', b'}'] {
            let mut text = text.clone();
            text[at] = byte;
            drop(Model::from_files(&[files[0].clone(), ("model.json".into(), text)]));
        }
    }
}
