# A NixOS module: users, directories and units are those that Petrel ships, so that
# there is one place where they are kept. Import it, and set services.petrel.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkEnableOption mkIf mkOption types;
  cfg = config.services.petrel;

  # The installed units name kill(1) in /bin, and programs of the package. petreld is named by the link of the system that
  # runs: at a reload it executes what its path leads to then, and a path of the store would lead to the old program for ever.
  shipped = pkgs.runCommand "petrel-units" { } ''
    mkdir -p $out/lib/systemd/system
    for unit in ${cfg.package}/lib/systemd/system/petrel*; do
      sed -e 's|^ExecStart=[^ ]*/sbin/petreld |ExecStart=/run/current-system/sw/sbin/petreld |' \
        -e 's|/bin/kill|${pkgs.util-linux}/bin/kill|' \
        $unit > $out/lib/systemd/system/$(basename $unit)
    done
  '';

  user = { isSystemUser = true; };
in
{
  options.services.petrel = {
    enable = mkEnableOption "Petrel, which supervises Solo5 unikernels";

    package = mkOption {
      type = types.package;
      description = "Petrel, installed by contrib/install.sh with PREFIX=$out.";
    };

    tenders = mkOption {
      type = types.listOf types.package;
      default = [ ];
      description = "Packages with solo5-spt and solo5-hvt.";
    };

    bridges = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = { service = "10.0.0.1/24"; };
      description = "Bridges to make for unikernels, with the address of the host on each.";
    };

    endpoint = {
      enable = mkEnableOption "commands over TLS";

      port = mkOption {
        type = types.port;
        default = 1025;
        description = "TCP port of the endpoint.";
      };

      openFirewall = mkOption {
        type = types.bool;
        default = true;
        description = "Whether the firewall lets connections to the port through.";
      };

      caCertificate = mkOption {
        type = types.path;
        description = "The certificate that those of clients lead to.";
      };

      certificate = mkOption {
        type = types.path;
        description = "The certificate of this host.";
      };

      key = mkOption {
        type = types.str;
        description = "Its key: a path outside of the store, which everybody can read.";
      };
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    users.groups = { petrel = { }; petrel-console = { }; petrel-stats = { }; };
    users.users = {
      petrel = user // { group = "petrel"; extraGroups = [ "petrel-stats" ]; };
      petrel-console = user // { group = "petrel-console"; };
      petrel-stats = user // { group = "petrel-stats"; extraGroups = [ "petrel" ]; };
    };

    systemd.packages = [ shipped ];
    systemd.tmpfiles.packages = [ cfg.package ];
    systemd.sockets.petreld.wantedBy = [ "sockets.target" ];
    systemd.sockets.petrel-console.wantedBy = [ "sockets.target" ];
    systemd.sockets.petrel-stats.wantedBy = [ "sockets.target" ];
    systemd.services.petrel-console.wantedBy = [ "multi-user.target" ];
    systemd.services.petrel-stats.wantedBy = [ "multi-user.target" ];
    systemd.services.petreld = {
      wantedBy = [ "multi-user.target" ];
      path = cfg.tenders;
      # A new program is executed in place, and unikernels go on.
      reloadIfChanged = true;
      # The unit does not name it.
      reloadTriggers = [ cfg.package ];
    };

    systemd.sockets.petrel-tls = mkIf cfg.endpoint.enable {
      wantedBy = [ "sockets.target" ];
      # The empty one takes the place of what is shipped.
      listenStreams = [ "" (toString cfg.endpoint.port) ];
      unitConfig.ConditionPathExists = [ "" cfg.endpoint.key ];
    };
    systemd.services."petrel-tls@" = mkIf cfg.endpoint.enable {
      serviceConfig.LoadCredential = [
        ""
        "server.pem:${cfg.endpoint.certificate}"
        "server.key:${cfg.endpoint.key}"
      ];
      # A CRL beside the certificate of the authority is used whenever it is there.
      serviceConfig.ExecStart = [
        ""
        "${cfg.package}/sbin/petrel-tls --systemd-socket-activation ${cfg.endpoint.caCertificate} \${CREDENTIALS_DIRECTORY}/server.pem \${CREDENTIALS_DIRECTORY}/server.key"
      ];
    };
    networking.firewall.allowedTCPPorts =
      lib.optional (cfg.endpoint.enable && cfg.endpoint.openFirewall) cfg.endpoint.port;

    networking.bridges = lib.mapAttrs (_: _: { interfaces = [ ]; }) cfg.bridges;
    networking.interfaces = lib.mapAttrs
      (_: address:
        let parts = lib.splitString "/" address; in {
          ipv4.addresses = [{
            address = builtins.elemAt parts 0;
            prefixLength = lib.toInt (builtins.elemAt parts 1);
          }];
        })
      cfg.bridges;
  };
}
